//! A headless Chromium with one page, driven over its DevTools protocol.
//!
//! The protocol goes through two pipes and no port: messages of JSON, each with a zero byte after
//! it. The browser has a profile of its own in a temporary directory and ends with its [`Page`].

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::deadline::{PATIENCE, until, within};
use super::peers::{command, find};

pub const CHROMIUM: &str = "chromium";

/// The browser reads what it is told from descriptor 3 and answers on 4.
const WITH_PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 1>&2 0</dev/null"#;

const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
    "about:blank",
];

/// A page in a browser of its own.
pub struct Page {
    browser: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    last: u64,
    session: Option<String>,
    /// Errors that the page or the browser about it has told of.
    complaints: Vec<String>,
    profile: TempDir,
}

impl Page {
    /// Starts a browser with a window of this size and opens `url`.
    pub fn open(url: &str, (width, height): (u32, u32)) -> Self {
        let mut page = Self::start();
        let target = page.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = page.call("Target.attachToTarget", attach);
        page.session = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.call(domain, json!({}));
        }
        let phone = width < 500;
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone });
        page.call("Emulation.setDeviceMetricsOverride", size);
        page.call("Page.navigate", json!({ "url": url }));
        let there =
            format!("location.href === {} && document.readyState === 'complete'", json!(url));
        page.until("the page is loaded", &there);
        page
    }

    fn start() -> Self {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let program = find(CHROMIUM).expect("asked for by `need`");
        let errors = File::create(profile.path().join("stderr")).expect("the file is made");
        let mut browser = command("sh")
            .args(["-c", WITH_PIPES])
            .arg(program)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(FLAGS)
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .expect("the browser starts");
        let commands = browser.stdin.take().expect("piped");
        let mut answers = BufReader::new(browser.stdout.take().expect("piped"));
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|read| read > 0) {
                let text = message.strip_suffix(&[0]).unwrap_or(&message);
                let Ok(value) = serde_json::from_slice(text) else { break };
                if sender.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let complaints = Vec::new();
        Self { browser, commands, messages, last: 0, session: None, complaints, profile }
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// One command of the protocol, and its result or the error that the browser made of it.
    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method });
        message["params"] = params;
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let sent = self.commands.write_all(&bytes).and_then(|()| self.commands.flush());
        sent.unwrap_or_else(|error| panic!("{method}: {error}\n{}", self.diagnostics()));
        loop {
            let answer = self.messages.recv_timeout(PATIENCE);
            let answer = answer.unwrap_or_else(|error| {
                panic!("{method}: no answer: {error}\n{}", self.diagnostics())
            });
            if answer["id"] == self.last {
                return match answer.get("error") {
                    Some(error) => Err(error.clone()),
                    None => Ok(answer["result"].clone()),
                };
            }
            self.hear(&answer);
        }
    }

    fn hear(&mut self, message: &Value) {
        let params = &message["params"];
        let text = match message["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => params.to_string(),
            "Runtime.consoleAPICalled" if params["type"] == "error" => params.to_string(),
            // An answer that is no success is the API's word and not the page's defect.
            "Log.entryAdded"
                if params["entry"]["level"] == "error"
                    && params["entry"]["source"] != "network" =>
            {
                params.to_string()
            }
            _ => return,
        };
        self.complaints.push(text);
    }

    /// The value of an expression in the page; a promise is waited for.
    pub fn eval(&mut self, expression: &str) -> Value {
        self.try_eval(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_eval(&mut self, expression: &str) -> Result<Value, Value> {
        let params = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true,
        });
        let result = self.try_call("Runtime.evaluate", params)?;
        match result.get("exceptionDetails") {
            Some(exception) => Err(exception.clone()),
            None => Ok(result["result"]["value"].clone()),
        }
    }

    /// Waits until the expression is neither false, null, zero nor empty, and returns its value.
    ///
    /// One that fails is asked again: the page may just be loading.
    pub fn until(&mut self, what: &str, expression: &str) -> Value {
        until(what, || {
            let value = self.try_eval(expression)?;
            let empty = matches!(&value, Value::Null | Value::Bool(false))
                || value == ""
                || value == 0
                || value == json!([]);
            if empty { Err(self.try_eval("document.body.innerText")?) } else { Ok(value) }
        })
    }

    /// The text of the first element that the selector finds; `null` if there is none.
    pub fn text(&mut self, selector: &str) -> Value {
        self.eval(&format!("document.querySelector({})?.innerText ?? null", json!(selector)))
    }

    /// Presses the mouse in the middle of an element, as a hand would.
    pub fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const one = document.querySelector({});
                one.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const at = one.getBoundingClientRect();
                return [at.x + at.width / 2, at.y + at.height / 2]; }})()",
            json!(selector)
        );
        let middle = self.eval(&middle);
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({
                "type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Presses a key: `Enter`, `Escape`, `Tab`, ` `.
    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            " " => (32, " "),
            other => panic!("no code for the key `{other}`"),
        };
        for kind in ["keyDown", "keyUp"] {
            let text = if kind == "keyDown" { text } else { "" };
            let params =
                json!({ "type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Types into what has the focus.
    pub fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Panics if the page has thrown, logged an error or broken its own policy.
    pub fn assert_no_complaints(&mut self) {
        self.eval("0");
        assert!(self.complaints.is_empty(), "{}", self.complaints.join("\n"));
    }

    fn diagnostics(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.browser.id() as i32);
        let _ = killpg(group, Signal::SIGTERM);
        let _ = within(PATIENCE / 4, || self.browser.try_wait().ok().flatten().ok_or(()));
        // Whatever it left behind, and itself if it did not listen.
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.browser.wait();
    }
}
