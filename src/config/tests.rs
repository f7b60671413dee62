//! Claims about whole configurations.

use super::*;

fn text(name: &str, text: &str) -> String {
    match load_text(name, text.as_bytes()) {
        Ok(loaded) => loaded.warnings.render(false),
        Err(report) => report.render(false),
    }
}

#[test]
fn errors_look_as_the_interface_says() {
    let file = "\
version = 1

[listener.pg]
bind = \"0.0.0.0:5432\"
pool = \"pgz\"

[pool.pg]
blance = \"least-conn\"
hold = \"10s\"
servers.pg1 = \"10.0.0.11:5432\"
";
    let expected = "\
error[E201]: listener `pg` sends to pool `pgz`, which does not exist
  --> main.toml:5:8
  |
5 | pool = \"pgz\"
  |        ^^^^^ did you mean `pg`?
";
    let got = text("main.toml", file);
    println!("{got}");
    assert!(got.contains(expected), "{got}");
}
