//! A real browser without a window: Debian's Chromium, driven as the WebDriver standard says.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::process::Process;
use super::{await_listening, free_address, scratch};

/// A page may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How a page's text is found, by the standard.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How somebody looks at pages.
#[derive(Debug, Clone, Copy)]
pub struct Eyes {
    /// Pixels across.
    pub width: u32,
    /// Whether the browser asks for dark pages.
    pub dark: bool,
    /// Whether the browser runs scripts.
    pub scripts: bool,
}

/// One browser with one window.
#[derive(Debug)]
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Browser {
    /// Start it.
    pub fn open(eyes: Eyes) -> Self {
        let (driver, folder) = (free_address(), scratch());
        let words = ["chromedriver".to_owned(), format!("--port={}", driver.port())];
        let process = Process::start(&words, &folder.path().join("browser.log"));
        await_listening(driver);
        let profile = folder.path().join("profile").display().to_string();
        let mut settings = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", format!("--user-data-dir={profile}"),
                // 0 is dark, 1 is light.
                format!("--blink-settings=preferredColorScheme={}", u32::from(!eyes.dark)),
            ],
            "mobileEmulation": {
                "deviceMetrics": { "width": eyes.width, "height": 900, "pixelRatio": 1.0 }
            },
        });
        if !eyes.scripts {
            // 2 is never.
            settings["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        let asked = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": settings,
        } } });
        let mut browser =
            Self { driver, session: String::new(), _process: process, _folder: folder };
        let opened = browser.call("POST", "/session", Some(&asked));
        browser.session = opened["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    /// Go to a page, as if its address were typed.
    pub fn go(&self, url: &str) {
        self.ask("url", &json!({ "url": url }));
    }

    /// The address of the page.
    pub fn address(&self) -> String {
        self.get("url").as_str().unwrap().to_owned()
    }

    /// What the window is called.
    pub fn title(&self) -> String {
        self.get("title").as_str().unwrap().to_owned()
    }

    /// What a person reads in the first element that the selector finds.
    pub fn text(&self, selector: &str) -> String {
        let element = self.find(selector);
        self.get(&format!("element/{element}/text")).as_str().unwrap().to_owned()
    }

    /// A computed property of the first element that the selector finds.
    pub fn style(&self, selector: &str, property: &str) -> String {
        let element = self.find(selector);
        self.get(&format!("element/{element}/css/{property}")).as_str().unwrap().to_owned()
    }

    /// Click on it, and wait for what comes.
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.ask(&format!("element/{element}/click"), &json!({}));
    }

    /// Type into it.
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.ask(&format!("element/{element}/value"), &json!({ "text": text }));
    }

    /// What a script in the page would give; the browser itself runs it.
    pub fn evaluate(&self, script: &str) -> Value {
        self.ask("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// What the browser complains of since it was last asked.
    pub fn complaints(&self) -> Vec<String> {
        let said = self.ask("se/log", &json!({ "type": "browser" }));
        said.as_array().unwrap().iter().map(Value::to_string).collect()
    }

    /// A picture of what is seen, for people to look at.
    pub fn picture(&self, file: &Path) {
        let picture = self.get("screenshot");
        let picture = BASE64.decode(picture.as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(file, picture).unwrap();
    }

    fn find(&self, selector: &str) -> String {
        let found = self.ask("element", &json!({ "using": "css selector", "value": selector }));
        found[ELEMENT].as_str().unwrap_or_else(|| panic!("{selector}: {found}")).to_owned()
    }

    fn get(&self, what: &str) -> Value {
        self.call("GET", &format!("/session/{}/{what}", self.session), None)
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{what}", self.session), Some(body))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let mut stream = TcpStream::connect(self.driver).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (driver, body) = (self.driver, body.map_or_else(String::new, Value::to_string));
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {driver}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        let mut body: Value = serde_json::from_str(body).unwrap();
        body["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes end with the session; a driver that is gone has taken them along.
        let path = format!("/session/{}", self.session);
        if !std::thread::panicking() {
            self.call("DELETE", &path, None);
        } else if let Ok(mut stream) = TcpStream::connect(self.driver) {
            let _ = write!(stream, "DELETE {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.driver);
            let _ = stream.read(&mut [0; 64]);
        }
    }
}
