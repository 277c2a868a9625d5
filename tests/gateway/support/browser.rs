//! A headless Chromium, driven through chromedriver (the protocol of W3C) by plain HTTP.

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{connect, read_reply};
use super::{Process, tools};

/// Without what it would do besides: it talks to nobody but the page's gateway.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox", // CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// Keys as the protocol names them.
pub mod keys {
    pub const ENTER: &str = "\u{e007}";
    pub const ESCAPE: &str = "\u{e00c}";
    pub const TAB: &str = "\u{e004}";
    pub const DOWN: &str = "\u{e015}";
    pub const END: &str = "\u{e010}";
}

/// One browser with one window. It ends when dropped.
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts one with a window of this size.
    #[track_caller]
    pub fn start(width: u32, height: u32) -> Self {
        let process = Process::start(Command::new(tools::CHROMEDRIVER.as_ref().unwrap()).arg("--port=0"));
        let marker = "started successfully on port ";
        let port: u16 = process
            .wait_for("chromedriver", |line| line.split_once(marker)?.1.trim_end_matches('.').parse().ok());
        let profile = tempfile::tempdir().unwrap();
        let mut arguments: Vec<_> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        arguments.push(format!("--window-size={width},{height}"));
        let options = json!({"args": arguments, "binary": tools::CHROMIUM.as_ref().unwrap()});
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let driver = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Self { driver, session: String::new(), _process: process, _profile: profile };
        let session = browser.ask("POST", "", &capabilities);
        browser.session = format!("/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    /// Asks for something of the session that must be granted.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let head = format!(
            "{method} /session{}{path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.session,
            self.driver,
            body.len()
        );
        let mut stream = connect(self.driver);
        stream.write_all((head + &body).as_bytes()).unwrap();
        let reply = read_reply(&mut BufReader::new(stream), false).expect("chromedriver does not answer");
        assert_eq!(reply.status, 200, "{method} {path}: {}", reply.text());
        reply.json()["value"].take()
    }

    /// Opens a page.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({"url": url}));
    }

    /// What a function with this body returns.
    #[track_caller]
    pub fn run(&self, body: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({"script": body, "args": []}))
    }

    /// As [`run`](Self::run), of a function whose promise is waited for.
    #[track_caller]
    pub fn run_async(&self, body: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; (async () => {{ {body} }})().then(done, (e) => done(String(e)));"
        );
        self.ask("POST", "/execute/async", &json!({"script": script, "args": []}))
    }

    /// Runs a file.
    #[track_caller]
    pub fn run_file(&self, file: &Path) {
        self.run(&std::fs::read_to_string(file).unwrap());
    }

    /// Presses keys, where the focus is.
    #[track_caller]
    pub fn press(&self, keys: &str) {
        let press =
            |key: char| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key.to_string()}));
        let actions: Vec<_> = keys.chars().flat_map(press).collect();
        self.ask(
            "POST",
            "/actions",
            &json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]}),
        );
    }

    /// Tells the page what its user prefers, such as `prefers-color-scheme`.
    #[track_caller]
    pub fn prefer(&self, feature: &str, value: &str) {
        let features = json!({"features": [{"name": feature, "value": value}]});
        self.ask(
            "POST",
            "/goog/cdp/execute",
            &json!({"cmd": "Emulation.setEmulatedMedia", "params": features}),
        );
    }

    /// Gives the window another size.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        self.ask("POST", "/window/rect", &json!({"width": width, "height": height}));
    }

    /// What the console has got since this was asked last: also what the page's policy has forbidden.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let lines = self.ask("POST", "/se/log", &json!({"type": "browser"}));
        lines.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// What the window shows, as PNG.
    #[track_caller]
    pub fn picture(&self) -> Vec<u8> {
        let picture = self.ask("GET", "/screenshot", &Value::Null);
        base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session, and not with chromedriver.
        let bytes = format!(
            "DELETE /session{} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.session, self.driver
        );
        if !self.session.is_empty()
            && let Ok(mut stream) = std::net::TcpStream::connect(self.driver)
        {
            let _ = stream.write_all(bytes.as_bytes());
            let _ = read_reply(&mut BufReader::new(stream), false);
        }
    }
}
