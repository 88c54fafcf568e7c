//! A node that is told to stop does so, whatever its clients are in the middle of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod support;

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use support::node::Node;

#[test]
fn half_sent_requests_do_not_hold_up_the_stop() {
    let mut node = Node::start();
    let mut public = TcpStream::connect(node.http()).unwrap();
    public.write_all(b"GE").unwrap();
    let mut admin = UnixStream::connect(node.socket()).unwrap();
    admin.write_all(b"POST /api").unwrap();
    let status = node.terminate();
    assert!(status.success(), "{status}");
}

#[test]
fn a_file_in_the_place_of_the_admin_socket_is_not_removed() {
    let mut node = Node::stopped(&support::node::Setup::default());
    std::fs::write(node.socket(), "precious").unwrap();
    node.begin();
    let status = node.process().wait();
    assert_eq!(status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(node.socket()).unwrap(), "precious");
}
