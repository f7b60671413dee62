//! The demo in a pipe or on a small terminal: what to try first, then a line a second, and a
//! line for each event.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::picture::{Picture, ServerRow};
use super::web::Web;
use crate::loadgen::report::{grouped, microseconds};

/// What is open and what to try, for the first lines and the screen.
#[must_use]
pub fn to_try(picture: &Picture) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(tcp) = picture.tcp {
        lines.push(format!("curl http://{tcp}/"));
    }
    lines.extend(picture.web.iter().flat_map(Web::to_try));
    if let Some(admin) = picture.admin {
        lines.push(format!("sluicegate ctl --admin http://{admin} status"));
        lines.push(format!("curl http://{admin}/metrics"));
    }
    lines
}

/// Writes what there is to say before the load starts.
///
/// # Errors
/// When the reader has gone.
pub fn begin(picture: &Picture, out: &mut impl Write) -> io::Result<()> {
    let Some(tcp) = picture.tcp else { return Ok(()) };
    writeln!(out, "listening on {tcp} (tcp), three servers behind it")?;
    if let Some(web) = &picture.web {
        writeln!(out, "listening on {} (http: routes, policies)", web.address)?;
        writeln!(out, "listening on {} (https: the same in TLS, HTTP/2)", web.secure)?;
    }
    if let Some(admin) = picture.admin {
        writeln!(out, "dashboard and admin API on http://{admin}/")?;
    }
    writeln!(out, "try:")?;
    for line in to_try(picture) {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}

/// Writes one picture.
///
/// # Errors
/// When the reader has gone.
pub fn show(picture: &Picture, out: &mut impl Write) -> io::Result<()> {
    let old = picture.events.len() - picture.fresh_events.min(picture.events.len());
    for told in picture.events.iter().skip(old) {
        writeln!(out, "{:>6.1} s  {}", told.at.as_secs_f64(), told.text)?;
    }
    let mut line = format!(
        "{:>6.1} s  {:>6} req/s  p50 {}  p99 {}  errors {} ",
        picture.elapsed.as_secs_f64(),
        grouped(picture.rate),
        microseconds(picture.p50_us),
        microseconds(picture.p99_us),
        picture.errors,
    );
    for ServerRow { name, state, active, fresh, .. } in &picture.servers {
        let _ = write!(line, "  {name} {state} {active} (+{fresh})");
    }
    writeln!(out, "{line}")?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::demo::picture::{Told, Tone};

    #[test]
    fn events_stand_before_the_line_of_their_second_and_only_once() {
        let told = |text: &str| Told {
            at: Duration::from_millis(1500),
            kind: "x",
            text: text.into(),
            tone: Tone::Plain,
        };
        let mut picture = Picture {
            elapsed: Duration::from_secs(2),
            events: [told("old"), told("new")].into(),
            fresh_events: 1,
            rate: 2000,
            ..Picture::default()
        };
        let mut out = Vec::new();
        show(&picture, &mut out).expect("a Vec takes everything");
        picture.fresh_events = 0;
        show(&picture, &mut out).expect("a Vec takes everything");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "   1.5 s  new");
        assert!(lines[1].starts_with("   2.0 s   2,000 req/s"), "{text}");
    }

    #[test]
    fn what_to_try_names_the_real_ports() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let web = Some(Web { address: at(8081), secure: at(8083), key: "k".into() });
        let (tcp, admin) = (Some(at(8080)), Some(at(8082)));
        let text = to_try(&Picture { tcp, web, admin, ..Picture::default() }).join("\n");
        for part in [
            "http://127.0.0.1:8080/",
            "http://127.0.0.1:8081/keyed",
            "https://127.0.0.1:8083/red",
            "--admin http://127.0.0.1:8082",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
