//! What sessions see of a graceful stop, and of a node that runs out of descriptors.

use std::time::Duration;

use mxfleet::config::Limits;

use crate::client::Client;
use crate::server::{Server, Setup};

async fn greeted(server: &Server) -> Client {
    let mut client = Client::connect(server.address).await;
    client.line().await.unwrap();
    client.send(b"EHLO client.test\r\n").await;
    client.reply().await.unwrap();
    client
}

async fn in_data(server: &Server) -> Client {
    let mut client = greeted(server).await;
    client.send(b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<user@customer.test>\r\nDATA\r\n").await;
    for code in ["250", "250", "354"] {
        assert!(client.line().await.unwrap().starts_with(code));
    }
    client
}

#[tokio::test]
async fn the_idle_are_sent_away_and_a_running_message_finishes() {
    let server = Server::start(Setup::default()).await;
    let mut idle = greeted(&server).await;
    let mut busy = in_data(&server).await;
    let mut chunked = greeted(&server).await;
    chunked
        .send(b"MAIL FROM:<a@sender.test>\r\nRCPT TO:<user@customer.test>\r\nBDAT 3\r\nx\r\n")
        .await;
    for _ in 0..3 {
        assert!(chunked.line().await.unwrap().starts_with("250"));
    }

    server.stop.cancel();
    assert_eq!(idle.line().await.unwrap(), "421 4.3.2 Service is stopping, try again");
    assert_eq!(idle.line().await, None);

    busy.send(b"text\r\n.\r\nNOOP\r\n").await;
    assert_eq!(busy.line().await.unwrap(), "250 2.0.0 Ok: queued as 4gTest");
    assert_eq!(busy.line().await.unwrap(), "421 4.3.2 Service is stopping, try again");
    assert_eq!(busy.line().await, None);

    chunked.send(b"BDAT 3 LAST\r\ny\r\n").await;
    assert_eq!(chunked.line().await.unwrap(), "250 2.0.0 Ok: queued as 4gTest");
    assert_eq!(chunked.line().await.unwrap(), "421 4.3.2 Service is stopping, try again");

    drop((idle, busy, chunked));
    tokio::time::timeout(Duration::from_secs(10), server.served).await.unwrap().unwrap();
    assert_eq!(server.accepted.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_message_that_does_not_come_holds_a_stop_up_only_so_long() {
    let limits = Limits { drain_timeout_ms: 100, linger_timeout_ms: 50, ..Limits::default() };
    let server = Server::start(Setup { limits, ..Setup::default() }).await;
    let mut busy = in_data(&server).await;
    busy.send(b"text\r\n").await;
    server.stop.cancel();
    assert_eq!(busy.line().await.unwrap(), "421 4.4.2 Timed out");
    tokio::time::timeout(Duration::from_secs(10), server.served).await.unwrap().unwrap();
    assert!(server.accepted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stopping_node_takes_no_new_connection() {
    let server = Server::start(Setup::default()).await;
    server.stop.cancel();
    server.served.await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_client_that_drips_a_command_is_cut_off() {
    let limits = Limits { command_timeout_ms: 300, ..Limits::default() };
    let server = Server::start(Setup { limits, ..Setup::default() }).await;
    let mut client = greeted(&server).await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        client.send(b"x").await;
        // The drip itself: a byte now and then, never a pause as long as the timeout.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.line().await.unwrap(), "421 4.4.2 Timed out");
}

#[tokio::test]
async fn a_client_that_drips_a_message_is_cut_off() {
    let limits = Limits { data_timeout_ms: 300, data_idle_timeout_ms: 5000, ..Limits::default() };
    let server = Server::start(Setup { limits, ..Setup::default() }).await;
    let mut client = in_data(&server).await;
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        client.send(b"x").await;
        // The drip itself, as above.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.line().await.unwrap(), "421 4.4.2 Timed out");
}

#[tokio::test]
async fn those_who_left_make_room_for_others() {
    let limits = Limits { sessions_per_network_max: 2, ..Limits::default() };
    let server = Server::start(Setup { limits, ..Setup::default() }).await;
    let mut first = greeted(&server).await;
    let _second = greeted(&server).await;
    let mut third = Client::connect(server.address).await;
    assert!(third.line().await.unwrap().starts_with("421 4.7.0 Too many sessions"));
    first.send(b"QUIT\r\n").await;
    first.line().await.unwrap();
    assert_eq!(first.line().await, None);
    // The server counts it out just after it closed.
    for _ in 0..100 {
        let mut fourth = Client::connect(server.address).await;
        if fourth.line().await.unwrap().starts_with("220") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody gets in any more");
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_not_waited_for() {
    let limits = Limits { tls_handshake_timeout_ms: 100, ..Limits::default() };
    let server = Server::start(Setup { limits, tls: true, ..Setup::default() }).await;
    let mut client = greeted(&server).await;
    client.send(b"STARTTLS\r\n").await;
    assert!(client.line().await.unwrap().starts_with("220 2.0.0"));
    assert_eq!(client.line().await, None);
}
