//! Servers that are slow, break, or want less at a time.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_server_that_hangs_delays_no_other_destination() {
    let slow = Manners { pause: Duration::from_secs(60), ..Manners::default() };
    let slow = CustomerServer::start(slow).await;
    let fine = CustomerServer::start(Manners::default()).await;
    let names: Vec<String> = (0..40).map(|n| format!("d{n}.test")).collect();
    let mut routes: Vec<(&str, String)> =
        names.iter().map(|name| (name.as_str(), fine.address.to_string())).collect();
    routes.push(("slow.test", slow.address.to_string()));
    let bounds = Limits { outbound_connections_max: 10, drain_timeout_ms: 100, ..limits() };
    let world = World::with(&routes, bounds).await;
    for _ in 0..100 {
        world.send(&["a@slow.test"], "text\r\n").await;
    }
    let began = Instant::now();
    for n in 0..200 {
        world.send(&[&format!("a@d{}.test", n % 40)], "text\r\n").await;
    }
    wait_until("all others are delivered", || fine.taken() == 200).await;
    // An idle connection must not be waited for, which would take 300 ms each time.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(slow.taken(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn recipients_beyond_a_servers_limit_go_into_another_transaction_at_once() {
    let few = Manners { offer: Some("LIMITS RCPTMAX=3"), ..Manners::default() };
    let server = CustomerServer::start(few).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    let to: Vec<String> = (0..8).map(|n| format!("u{n}@acme.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    world.send(&to, "text\r\n").await;
    world.empty().await;
    assert_eq!(server.recipients(), to);
    let seen = server.seen.lock().unwrap();
    let sizes: Vec<usize> = seen.taken.iter().map(|(to, _)| to.len()).collect();
    assert_eq!((sizes.as_slice(), seen.connections), (&[3, 3, 2][..], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_lost_answer_to_the_final_dot_makes_a_duplicate() {
    let forgetful = Manners { forgets_to_answer: true, ..Manners::default() };
    let server = CustomerServer::start(forgetful).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    world.send(&["a@acme.test"], "text\r\n").await;
    wait_until("it is deferred", || world.log_lines("status=deferred") == 1).await;
    server.behave(|manners| manners.forgets_to_answer = false);
    world.empty().await;
    assert_eq!(server.recipients(), ["a@acme.test", "a@acme.test"]);
    assert_eq!(world.log_lines("status=sent"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_without_a_route_keeps_its_mail_for_now() {
    let world = World::new(&[("acme.test", "mx".to_owned())]).await;
    // The name server does not answer: that is for now.
    world.send(&["a@acme.test"], "text\r\n").await;
    wait_until("it is deferred", || world.log_lines("relay=none, ") > 0).await;
    assert!(world.log().contains("dsn=4.4.3, status=deferred (lookup of acme.test failed"));
    world.send(&["a@unserved.test"], "text\r\n").await;
    wait_until("it is deferred", || world.log_lines("to=<a@unserved.test>") > 0).await;
    assert!(world.log().contains("dsn=4.4.4, status=deferred (no customer has domain"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_no_more_messages_than_its_limit() {
    let server = CustomerServer::start(Manners::default()).await;
    let bounds = Limits { messages_per_connection_max: 10, window_start: 1, ..limits() };
    let mut world = World::with(&[("acme.test", server.address.to_string())], bounds).await;
    world.set("delivery.connections_max", "1").await;
    for _ in 0..50 {
        world.send(&["a@acme.test"], "text\r\n").await;
    }
    world.empty().await;
    let seen = server.seen.lock().unwrap();
    assert_eq!((seen.taken.len(), seen.open_max), (50, 1));
    assert!(seen.connections >= 5, "{}", seen.connections);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_does_not_fail_for_a_label_that_it_does_not_need() {
    let old = Manners { offer: Some("HELP"), ..Manners::default() };
    let server = CustomerServer::start(old).await;
    let world = World::new(&[("acme.test", server.address.to_string())]).await;
    let plain = Envelope { body: BodyType::EightBitMime, ..envelope(&["a@acme.test"]) };
    let utf8 = Envelope { smtputf8: true, ..plain.clone() };
    world.send_as(plain.clone(), "text\r\n").await;
    world.send_as(utf8, &"more text\r\n".repeat(10_000)).await;
    world.send_as(plain, "gr\u{fc}n\r\n").await;
    world.empty().await;
    assert_eq!((server.taken(), world.log_lines("dsn=5.6.3, status=bounced")), (2, 1));
    let seen = server.seen.lock().unwrap();
    let mails = seen.commands.iter().filter(|command| command.starts_with("MAIL"));
    assert_eq!(mails.collect::<Vec<_>>(), ["MAIL FROM:<sender@elsewhere.test>"; 2]);
}
