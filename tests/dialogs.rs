//! Text dialogs with the inbound side: `tests/dialogs/*.txt`, played against a real listener.
//! How to read them is said in `dialogs/script.rs`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that panics has failed, which is its job"
)]

#[path = "dialogs/client.rs"]
mod client;
#[path = "dialogs/cuts.rs"]
mod cuts;
#[path = "dialogs/script.rs"]
mod script;
#[path = "dialogs/server.rs"]
mod server;
#[path = "dialogs/stop.rs"]
mod stop;

use std::path::Path;

async fn play_file(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let cases = script::parse(&text);
    assert!(!cases.is_empty(), "{name} has no case");
    let mut failed = Vec::new();
    for case in &cases {
        if let Err(why) = script::play(case).await {
            failed.push(format!("{name}: {}\n  {why}", case.title));
        }
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

macro_rules! dialogs {
    ($($test:ident = $file:literal;)*) => {
        $(#[tokio::test]
        async fn $test() {
            play_file($file).await;
        })*

        #[test]
        fn every_dialog_file_is_played() {
            let played = [$($file),*];
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogs");
            for entry in std::fs::read_dir(dir).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".txt") || played.contains(&name.as_str()), "{name}");
            }
        }
    };
}

dialogs! {
    the_plain_course_of_a_session = "session.txt";
    only_crlf_dot_crlf_ends_a_message = "smuggling.txt";
    nobody_relays_through_us = "relaying.txt";
    commands_are_parsed_strictly = "commands.txt";
    parameters_are_checked_and_carried = "parameters.txt";
    commands_have_an_order = "order.txt";
    chunks_are_messages_too = "bdat.txt";
    starttls_forgets_what_was_before = "starttls.txt";
    everything_has_a_bound = "bounds.txt";
}
