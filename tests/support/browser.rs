//! A real browser without a window: Debian's Chromium, driven as the WebDriver standard says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::process::Process;
use super::{await_listening, eventually, free_address, scratch};

/// A page may take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The key under which an answer names an element, by the standard.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How somebody looks at pages.
#[derive(Debug, Clone, Copy)]
pub struct Eyes {
    /// Pixels across.
    pub width: u32,
    /// Whether the browser asks for dark pages.
    pub dark: bool,
}

/// Both phones and desks, by day and by night.
pub const EYES: &[Eyes] = &[
    Eyes { width: 390, dark: false },
    Eyes { width: 1280, dark: true },
    Eyes { width: 390, dark: true },
    Eyes { width: 1280, dark: false },
];

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
        Self::with(eyes, &json!({}))
    }

    /// One that runs no scripts of pages. The driver clicks by script, so this one only reads.
    pub fn without_scripts(eyes: Eyes) -> Self {
        // 2 is never.
        Self::with(eyes, &json!({ "profile.managed_default_content_settings.javascript": 2 }))
    }

    fn with(eyes: Eyes, preferences: &Value) -> Self {
        let (driver, folder) = (free_address(), scratch());
        let words = ["chromedriver".to_owned(), format!("--port={}", driver.port())];
        let process = Process::start(&words, &folder.path().join("browser.log"));
        await_listening(driver);
        let profile = folder.path().join("profile").display().to_string();
        let settings = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", format!("--user-data-dir={profile}"),
                // 0 is dark, 1 is light.
                format!("--blink-settings=preferredColorScheme={}", u32::from(!eyes.dark)),
            ],
            "prefs": preferences,
            "mobileEmulation": {
                "deviceMetrics": { "width": eyes.width, "height": 900, "pixelRatio": 1.0 }
            },
        });
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

    /// What a person reads in the first element that the selector finds, as soon as it is there.
    pub fn text(&self, selector: &str) -> String {
        let mut text = None;
        // The page may go while it is read.
        eventually("a page that stays", PATIENCE, || {
            let element = self.find(selector);
            let path = format!("/session/{}/element/{element}/text", self.session);
            let read = self.attempt("GET", &path, None).ok();
            text = read.and_then(|read| Some(read.as_str()?.to_owned()));
            text.is_some()
        });
        text.unwrap()
    }

    /// How many elements the selector finds.
    pub fn count(&self, selector: &str) -> usize {
        let asked = json!({ "using": "css selector", "value": selector });
        self.ask("elements", &asked).as_array().unwrap().len()
    }

    /// A computed property of the first element that the selector finds.
    pub fn style(&self, selector: &str, property: &str) -> String {
        let element = self.find(selector);
        self.get(&format!("element/{element}/css/{property}")).as_str().unwrap().to_owned()
    }

    /// Click on it, and wait for the page that it leads to.
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.ask(&format!("element/{element}/click"), &json!({}));
        let path = format!("/session/{}/element/{element}/name", self.session);
        eventually("the next page", PATIENCE, || self.attempt("GET", &path, None).is_err());
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

    /// The first element that the selector finds, as soon as there is one.
    fn find(&self, selector: &str) -> String {
        let mut element = None;
        eventually(&format!("a page with {selector}"), PATIENCE, || {
            let asked = json!({ "using": "css selector", "value": selector });
            let path = format!("/session/{}/element", self.session);
            let found = self.attempt("POST", &path, Some(&asked)).ok();
            element = found.and_then(|found| Some(found[ELEMENT].as_str()?.to_owned()));
            element.is_some()
        });
        element.unwrap()
    }

    fn get(&self, what: &str) -> Value {
        self.call("GET", &format!("/session/{}/{what}", self.session), None)
    }

    fn ask(&self, what: &str, body: &Value) -> Value {
        self.call("POST", &format!("/session/{}/{what}", self.session), Some(body))
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.attempt(method, path, body);
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn attempt(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Value> {
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
        // The driver keeps its connections open, so that the end is where it says.
        let mut answer = BufReader::new(stream);
        let (mut head, mut octets) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            assert!(answer.read_line(&mut head).unwrap() > 0, "{method} {path}: {head}");
            if let Some(length) = head[start..].to_lowercase().strip_prefix("content-length:") {
                octets = length.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; octets];
        answer.read_exact(&mut body).unwrap();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        let value = body["value"].take();
        if head.starts_with("HTTP/1.1 200") { Ok(value) } else { Err(value) }
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

/// In the page: every text whose contrast with what is behind it is below 4.5 (WCAG 2 AA).
const FAINT: &str = r"
    const numbers = colour => colour.match(/[\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = element => {
        for (let e = element; e; e = e.parentElement) {
            const colour = numbers(getComputedStyle(e).backgroundColor);
            if (colour.length < 4 || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const element of document.body.querySelectorAll('*')) {
        const has_text = [...element.childNodes].some(n => n.nodeType == 3 && n.data.trim());
        if (!has_text) continue;
        const [a, b] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push(element.textContent.trim() + ': ' + contrast);
    }
    return faint;
";

/// What holds for every page, whoever reads it.
pub fn inspect(browser: &Browser) {
    let place = browser.address();
    for once in ["main", "header", "footer", "h1", "html[lang]", "a.skip"] {
        assert_eq!(browser.count(once), 1, "{once} on {place}");
    }
    for never in ["script", "img:not([alt])", "[style]", "input:not([id])"] {
        assert_eq!(browser.count(never), 0, "{never} on {place}");
    }
    assert_eq!(browser.complaints(), Vec::<String>::new(), "{place}");
    let levels = "return [...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])";
    let levels: Vec<u64> = serde_json::from_value(browser.evaluate(levels)).unwrap();
    assert_eq!(levels[0], 1, "{place}");
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{place}: {levels:?}");
    let wider = "return document.documentElement.scrollWidth - innerWidth";
    assert!(browser.evaluate(wider).as_i64().unwrap() <= 0, "{place} is too wide");
    assert_eq!(browser.evaluate(FAINT), Value::Array(Vec::new()), "faint text on {place}");
    assert_eq!(browser.evaluate("return document.cookie"), "", "{place}");
}

/// Keep a picture where somebody asked for one with `SITE_PICTURES=folder`.
pub fn picture(browser: &Browser, eyes: Eyes, name: &str) {
    if let Some(folder) = std::env::var_os("SITE_PICTURES") {
        let tone = if eyes.dark { "dark" } else { "light" };
        let file = format!("{name}-{}-{tone}.png", eyes.width);
        browser.picture(&Path::new(&folder).join(file));
    }
}
