//! A headless Chromium, controlled through the DevTools protocol.

use crate::support::skipped;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

/// Time limit of any operation on a page.
const PATIENCE: Duration = Duration::from_secs(60);
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// A running browser; it is killed at the end of the test.
pub(crate) struct Browser {
    child: Child,
    port: u16,
    _profile: tempfile::TempDir,
}

/// A tab of the browser.
pub(crate) struct Page {
    socket: WebSocket<TcpStream>,
    number: u64,
    /// Uncaught exceptions and console errors of the page.
    errors: Vec<String>,
}

impl Browser {
    /// Starts the browser with a fake microphone that plays a WAV file in a loop. Returns `None`, and reports the skipped test, if no
    /// browser is installed.
    pub(crate) fn start(what: &str, microphone: &Path) -> Option<Self> {
        let named = std::env::var("VOXPIPE_TEST_CHROMIUM").ok();
        let candidates: Vec<&str> = named.as_deref().map_or_else(|| BROWSERS.to_vec(), |named| vec![named]);
        let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|ran| ran.status.success());
        let Some(program) = candidates.into_iter().find(runs) else {
            skipped(what, "no chromium was found; on Debian: apt-get install chromium");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program);
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0", "--mute-audio"]);
        command.args([
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            "--autoplay-policy=no-user-gesture-required",
        ]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]);
        command.arg(format!("--use-file-for-fake-audio-capture={}", microphone.display()));
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let begun = Instant::now();
        let port = loop {
            let told = fs::read_to_string(profile.path().join("DevToolsActivePort")).unwrap_or_default();
            if let Some(port) = told.lines().next().and_then(|port| port.parse().ok()) {
                break port;
            }
            assert!(begun.elapsed() < PATIENCE, "the browser does not start");
            std::thread::sleep(Duration::from_millis(50));
        };
        Some(Self { child, port, _profile: profile })
    }

    /// Opens a tab.
    pub(crate) fn page(&self, url: &str) -> Page {
        let about = self.ask("PUT /json/new?about:blank");
        let path = about["webSocketDebuggerUrl"].as_str().unwrap().to_owned();
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(path.as_str(), stream).unwrap();
        let mut page = Page { socket, number: 0, errors: Vec::new() };
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.go(url);
        page
    }

    fn ask(&self, request: &str) -> Value {
        use std::io::{BufRead, BufReader, Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        // The browser keeps the connection open, so read by Content-Length.
        let (mut reader, mut size) = (BufReader::new(stream), 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
                size = length.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; size];
        reader.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Kill the process group: the browser has several processes.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

impl Page {
    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Calls a DevTools method. Returns its result or its error.
    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.number += 1;
        let asked = json!({ "id": self.number, "method": method, "params": params }).to_string();
        self.socket.send(Message::text(asked)).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap_or_else(|error| panic!("{method}: {error}")) else { continue };
            let told: Value = serde_json::from_str(&text).unwrap();
            match told["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.errors.push(told["params"]["exceptionDetails"].to_string()),
                Some("Log.entryAdded") if told["params"]["entry"]["level"] == "error" => {
                    self.errors.push(told["params"]["entry"].to_string());
                }
                _ => {}
            }
            if told["id"] == self.number {
                return if told["error"].is_null() { Ok(told["result"].clone()) } else { Err(told["error"].clone()) };
            }
        }
    }

    /// Evaluates JavaScript and returns its value.
    #[track_caller]
    pub(crate) fn eval(&mut self, script: &str) -> Value {
        let told = self.call("Runtime.evaluate", json!({ "expression": script, "awaitPromise": true, "returnByValue": true }));
        assert!(told["exceptionDetails"].is_null(), "{script}: {}", told["exceptionDetails"]);
        told["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is true.
    #[track_caller]
    pub(crate) fn wait(&mut self, script: &str) {
        let begun = Instant::now();
        // Evaluation may fail while the page navigates.
        let guarded = format!("(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()");
        let asked = json!({ "expression": guarded, "returnByValue": true });
        while !self.try_call("Runtime.evaluate", asked.clone()).is_ok_and(|told| told["result"]["value"] == true) {
            if begun.elapsed() > PATIENCE {
                let about = self.eval("location.href + '\\n' + document.body.innerText.slice(0, 2500)");
                panic!("`{script}` does not come to be; {}\n{:?}", about.as_str().unwrap_or_default(), self.errors);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn go(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
        self.wait("document.readyState === 'complete'");
    }

    /// Clicks in the center of an element.
    #[track_caller]
    pub(crate) fn click(&mut self, selector: &str) {
        let name = json!(selector);
        self.wait(&format!("document.querySelector({name}) && document.querySelector({name}).getBoundingClientRect().height"));
        let at = self.eval(&format!(
            "(() => {{ const e = document.querySelector({name}); e.scrollIntoView({{ block: 'center' }}); const r = e.getBoundingClientRect(); \
             return [r.x + r.width / 2, r.y + r.height / 2] }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            self.call("Input.dispatchMouseEvent", json!({ "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1 }));
        }
    }

    /// Presses a key in the focused element.
    pub(crate) fn key(&mut self, key: &str) {
        let (key, code, number) = match key {
            "Space" => (" ", "Space".to_owned(), 32),
            "Enter" => ("Enter", "Enter".to_owned(), 13),
            "Escape" => ("Escape", "Escape".to_owned(), 27),
            "ArrowRight" => ("ArrowRight", "ArrowRight".to_owned(), 39),
            letter => (letter, format!("Key{}", letter.to_uppercase()), i32::from(letter.to_uppercase().as_bytes()[0])),
        };
        for kind in ["rawKeyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number }));
        }
    }

    /// Replaces the content of an input field.
    #[track_caller]
    pub(crate) fn fill(&mut self, selector: &str, text: &str) {
        let name = json!(selector);
        self.wait(&format!("document.querySelector({name})"));
        self.eval(&format!("(() => {{ const e = document.querySelector({name}); e.focus(); e.select(); }})()"));
        self.call("Input.insertText", json!({ "text": text }));
        self.eval(&format!("document.querySelector({name}).dispatchEvent(new Event('change', {{ bubbles: true }}))"));
    }

    /// Selects files in a file input.
    #[track_caller]
    pub(crate) fn upload(&mut self, selector: &str, files: &[std::path::PathBuf]) {
        let found = self.call("Runtime.evaluate", json!({ "expression": format!("document.querySelector({})", json!(selector)) }));
        self.call("DOM.setFileInputFiles", json!({ "files": files, "objectId": found["result"]["objectId"] }));
    }

    /// Sets the size of the window.
    pub(crate) fn size(&mut self, width: u32, height: u32) {
        let about = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", about);
    }

    /// Sets the color scheme.
    pub(crate) fn dark(&mut self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        self.call("Emulation.setEmulatedMedia", json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] }));
    }

    /// Takes a screenshot as PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        use base64::Engine;
        let told = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        base64::engine::general_purpose::STANDARD.decode(told["data"].as_str().unwrap()).unwrap()
    }

    /// Accessibility violations found by axe-core; `None` unless VOXPIPE_TEST_AXE names its `axe.min.js`.
    pub(crate) fn violations(&mut self) -> Option<Vec<String>> {
        let script = fs::read_to_string(std::env::var_os("VOXPIPE_TEST_AXE")?).unwrap();
        self.call("Runtime.evaluate", json!({ "expression": script }));
        let found =
            self.eval("axe.run().then(told => told.violations.map(v => `${v.id}: ${v.help} (${v.nodes[0].target}: ${v.nodes[0].html})`))");
        Some(serde_json::from_value(found).unwrap())
    }

    /// Whether the page is wider than the window.
    pub(crate) fn is_too_wide(&mut self) -> bool {
        self.eval("document.documentElement.scrollWidth > innerWidth + 1") == true
    }

    /// Takes the errors of the page so far.
    pub(crate) fn errors(&mut self) -> Vec<String> {
        self.eval("1");
        std::mem::take(&mut self.errors)
    }
}
