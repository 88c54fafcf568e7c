//! The status page, as people, browsers and programs read it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::browser::{Browser, EYES, inspect, picture};
use support::fleet::{Fleet, on_loopback};
use support::node::{Node, http_get};
use support::process::output;
use support::{SOON, eventually, next_year};

const HOSTILE: &str = "<img src=x onerror=alert(1)> & <script>alert(2)</script>";

/// Notices of all kinds.
fn tell(node: &Node) {
    let open = |words: &[&str]| node.admin(&[&["notice", "open"], words].concat());
    open(&["--title", "Mail was late this morning", "--text", "A disk of mx1 was full."]);
    node.admin(&["notice", "resolve", "1", "--text", "There is room again."]);
    let text = "Some mail for mx1 waits up to ten minutes.\n\nNothing is lost.";
    open(&["--title", "Mail through mx1 is slow", "--text", text, "--component", "mx1"]);
    node.admin(&["notice", "update", "2", "--text", HOSTILE]);
    let [starts, ends] = ["14", "16"].map(|hour| format!("{}-04-28T{hour}:00:00Z", next_year()));
    let words = ["--title", "mx1 moves to another rack", "--text", "Other servers take its mail."];
    open(&[&words[..], &["--starts", &starts, "--ends", &ends, "--component", "mx1"]].concat());
}

/// The page as soon as it has these words.
fn await_words(server: SocketAddr, path: &str, words: &str) -> String {
    let mut page = String::new();
    eventually(&format!("{words} on {path}"), 4 * SOON, || {
        page = http_get(server, path).unwrap().1;
        page.contains(words)
    });
    page
}

#[test]
fn people_read_what_is_and_what_is_planned_on_phones_and_desks_by_day_and_by_night() {
    let fleet = Fleet::with(&["mx1", "mx2"].map(on_loopback));
    tell(&fleet.nodes[0]);
    // Any node shows it.
    let server = fleet.nodes[1].http();
    await_words(server, "/", "mx1 moves to another rack");
    for eyes in EYES {
        let browser = Browser::open(*eyes);
        browser.go(&format!("http://{server}/"));
        assert_eq!(browser.title(), "Mail through mx1 is slow – Mail relay");
        assert_eq!(browser.text("h1"), "Mail through mx1 is slow");
        assert!(browser.text("#now ~ article").contains(HOSTILE));
        let planned = browser.text("section[aria-labelledby=planned] article");
        let when = format!("about 28 Apr {}, 14:00 to 16:00 UTC", next_year());
        assert!(planned.contains(&when), "{planned}");
        let servers = browser.text(".servers");
        assert!(servers.contains("mx1\nHas an issue") && servers.contains("mx2\nTakes mail"));
        let paper = browser.style("body", "background-color");
        assert_eq!(paper.starts_with("rgba(252,"), !eyes.dark, "{paper}");
        inspect(&browser);
        picture(&browser, *eyes, "home");
        browser.click(".notice h3 a");
        assert_eq!(browser.text("h1"), "Mail through mx1 is slow");
        inspect(&browser);
        picture(&browser, *eyes, "notice");
        browser.click("nav a[href='/history']");
        assert!(browser.text("main").contains("Mail was late this morning"));
        inspect(&browser);
        picture(&browser, *eyes, "history");
        browser.go(&format!("http://{server}/nothing"));
        assert_eq!(browser.text("h1"), "There is no such page.");
        // The browser itself complains of a 404.
        browser.complaints();
        inspect(&browser);
    }
    let browser = Browser::without_scripts(EYES[0]);
    browser.go(&format!("http://{server}/"));
    let page = browser.text("main");
    assert!(page.contains("Mail through mx1 is slow") && page.contains("Planned work"), "{page}");
}

#[test]
fn programs_read_the_same() {
    let node = Node::start();
    node.admin(&["settings", "set", "site.title", "Example & sons"]);
    node.admin(&["settings", "set", "site.url", "https://status.relay.example"]);
    tell(&node);
    let json = await_words(node.http(), "/api/v1/status", "another rack");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["status"], &json["service"]), (&"issue".into(), &"Example & sons".into()));
    assert_eq!(json["open"][0]["updates"][0]["text"], HOSTILE);
    let starts = format!("{}-04-28T14:00:00Z", next_year());
    assert_eq!(json["planned"][0]["starts"], starts.as_str());
    assert_eq!(json["servers"][0]["condition"], "Has an issue");
    let feed = http_get(node.http(), "/feed.atom").unwrap().1;
    let file = node.folder().join("feed.atom");
    std::fs::write(&file, feed).unwrap();
    let read = "import sys, xml.etree.ElementTree as tree\n\
        atom = '{http://www.w3.org/2005/Atom}'\n\
        feed = tree.parse(sys.argv[1]).getroot()\n\
        print(feed.find(atom + 'title').text)\n\
        for entry in feed.findall(atom + 'entry'):\n    \
            print(entry.find(atom + 'title').text, entry.find(atom + 'link').get('href'),\n        \
                len(entry.find(atom + 'id').text) > 5, len(entry.find(atom + 'updated').text))\n";
    let read = output("python3", &["-c", read, file.to_str().unwrap()]);
    let at = "https://status.relay.example/notice";
    let entry = |title: &str, id: u64| format!("{title} {at}/{id} True 20\n");
    let wanted = ["Example & sons: notices\n".to_owned()].into_iter().chain([
        entry("mx1 moves to another rack", 3),
        entry("Mail through mx1 is slow", 2),
        entry("Mail was late this morning", 1),
    ]);
    assert_eq!(read, wanted.collect::<String>());
    let badge = http_get(node.http(), "/badge.svg").unwrap().1;
    assert!(badge.contains("Example &amp; sons: issue"), "{badge}");
}

/// Status, header and body of a request as it is written here.
fn ask(server: SocketAddr, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "{request}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

#[test]
fn who_asks_badly_is_told_in_a_sentence_and_every_answer_is_guarded() {
    let node = Node::start();
    for (request, status, words) in [
        ("GET / HTTP/1.1", 200, "All servers take mail"),
        ("HEAD / HTTP/1.1", 200, ""),
        ("GET /nothing HTTP/1.1", 404, "There is no such page."),
        ("GET /notice/1 HTTP/1.1", 404, "There is no such notice."),
        ("GET /notice/%3Cscript%3E HTTP/1.1", 404, "There is no such notice."),
        ("GET /notice/99999999999999999999999 HTTP/1.1", 404, "There is no such notice."),
        ("GET /history?before=x HTTP/1.1", 400, "The number of a notice is made of digits."),
        ("GET /metrics HTTP/1.1", 404, "There is no such page."),
        ("GET /api/v1/admin/call HTTP/1.1", 404, "There is no such page."),
        ("POST / HTTP/1.1\r\nContent-Length: 99999999", 405, "This page can only be read."),
        ("DELETE /notice/1 HTTP/1.1", 405, "This page can only be read."),
        ("GET /healthz HTTP/1.1", 200, "the process runs"),
    ] {
        if status == 200 && words.starts_with("All") {
            await_words(node.http(), "/", words);
        }
        let (got, head, body) = ask(node.http(), request);
        assert_eq!(got, status, "{request}: {body}");
        assert!(body.contains(words), "{request}: {body}");
        for header in [
            "content-security-policy: default-src 'none';",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{request}: {head}");
        }
        assert!(!head.contains("set-cookie") && !body.contains("<script"), "{request}");
    }
    let (_, head, _) = ask(node.http(), "GET /history HTTP/1.1");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    // Who has it is not sent it again.
    let tag = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("etag: "));
        line.unwrap().to_owned()
    };
    let (_, head, _) = ask(node.http(), "GET /feed.atom HTTP/1.1");
    let again = format!("GET /feed.atom HTTP/1.1\r\nIf-None-Match: {}", tag(&head));
    assert_eq!(ask(node.http(), &again).0, 304);
}

/// A connection that asks for the first page again and again.
struct Reader(BufReader<TcpStream>);

impl Reader {
    fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(BufReader::new(stream))
    }

    /// The page; a server that says anything but 200 fails the test.
    fn read(&mut self) -> String {
        self.0.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let (mut octets, mut line) = (0, String::new());
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if let Some(length) = line.to_lowercase().strip_prefix("content-length: ") {
                octets = length.trim().parse().unwrap();
            }
        }
        let mut page = vec![0; octets];
        self.0.read_exact(&mut page).unwrap();
        String::from_utf8(page).unwrap()
    }
}

#[test]
fn a_node_that_is_left_alone_answers_ten_thousand_times_and_says_how_old_its_news_is() {
    let mut fleet = Fleet::start(3);
    fleet.nodes[0].admin(&["notice", "open", "--title", "A cable is cut", "--text", "Of two."]);
    let server = fleet.nodes[2].http();
    await_words(server, "/", "A cable is cut");
    fleet.nodes[0].kill();
    fleet.nodes[1].kill();
    let begun = Instant::now();
    let readers: Vec<_> = (0..10)
        .map(|_| {
            std::thread::spawn(move || {
                let mut reader = Reader::connect(server);
                for n in 0..1000 {
                    assert!(reader.read().contains("A cable is cut"));
                    // A hundred a second and reader, or as fast as it goes.
                    let due = Duration::from_millis(10 * n);
                    std::thread::sleep(due.saturating_sub(begun.elapsed()));
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    println!("10,000 pages in {:?}; ten seconds if it kept pace", begun.elapsed());
    let page = await_words(server, "/", "last agreed");
    assert!(page.contains("minute ago") && page.contains("A cable is cut"), "{page}");
    assert!(page.contains("Not known"), "{page}");
    let json = http_get(server, "/api/v1/status").unwrap().1;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["agreed_seconds_ago"].as_u64().unwrap() >= 60, "{json}");
    assert!(fleet.nodes[2].is_ready());
}
