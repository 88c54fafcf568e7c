//! Every bound an operator may set, with its default, under `[limits]`. Bounds nobody needs to
//! change are constants where they are used.
//!
//! Sizes are octets, durations milliseconds. A full bound answers 4xx; nothing grows without one.

/// The bounds of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    // Sessions: what one client may do.
    /// Longest command line, CRLF included. RFC 5321 asks for 512; extensions add to it.
    pub command_octets_max: usize,
    /// A command line that is too long is dropped as it comes, up to so many octets; then 421.
    pub command_discard_octets_max: u64,
    /// Commands in one session before 421.
    pub session_commands_max: u32,
    /// Refused or unknown commands in one session before 421.
    pub session_errors_max: u32,
    /// Messages in one session before 421, as announced with MAILMAX (RFC 9422).
    pub session_messages_max: u32,
    /// Recipients of one message before 452 (RFC 5321 section 4.5.3.1.8 asks for at least 100).
    pub recipients_max: usize,
    /// Sessions in all; more are greeted with 421.
    pub sessions_max: usize,
    /// Sessions of one client network (IPv4 /24, IPv6 /64); more are greeted with 421.
    pub sessions_per_network_max: usize,
    /// Octets of one message, as announced with SIZE.
    pub message_octets_max: u64,
    /// Text beyond `message_octets_max` is dropped as it comes, up to so many octets; then 421.
    pub discard_octets_max: u64,
    /// Received fields in a message before it is a loop (RFC 5321 section 6.3).
    pub hops_max: usize,
    /// Received fields that this very host wrote before it is a loop.
    pub own_hops_max: usize,
    /// Pause before the banner, in which a client that talks shows itself.
    pub greet_pause_ms: u64,
    /// One command line, from the reply before it to its CRLF.
    pub command_timeout_ms: u64,
    /// The longest silence inside DATA or BDAT.
    pub data_idle_timeout_ms: u64,
    /// A whole DATA or BDAT transaction.
    pub data_timeout_ms: u64,
    /// After we end a session, what the client still sends is read and dropped for so long, so
    /// that our last reply reaches it.
    pub linger_timeout_ms: u64,
    /// Pause after `accept` failed for want of descriptors or memory.
    pub accept_pause_ms: u64,
    /// The TLS handshake.
    pub tls_handshake_timeout_ms: u64,
    /// A graceful stop: how long a running DATA may go on.
    pub drain_timeout_ms: u64,

    // Spool: what one disk holds.
    /// One segment file, preallocated.
    pub segment_octets: u64,
    /// Free space below which no mail is accepted (452).
    pub disk_reserve_octets: u64,
    /// A message up to this size is one record and is delivered from memory when fresh.
    pub inline_message_octets_max: usize,
    /// Texts of fresh messages kept in memory, in all.
    pub fresh_cache_octets_max: usize,
    /// Texts on their way to the disk, in all; more make their clients wait.
    pub spool_queue_octets_max: usize,
    /// Octets written with one call. Larger saves calls, smaller lets others in between.
    pub spool_batch_octets_max: usize,
    /// Marks that wait for a failing disk. Beyond it, those that only delay a retry are not kept.
    pub spool_waiting_marks_max: usize,
    /// Segments with less than this share of live octets are compacted.
    pub compact_live_percent: u64,
    /// Octets a second that compaction may write.
    pub compact_octets_per_second: u64,

    // Delivery: what one node asks of others.
    /// Connections to customers' servers, in all.
    pub outbound_connections_max: usize,
    /// Connections to one destination when nothing is known of it.
    pub window_start: u32,
    /// Messages on one connection before it is closed.
    pub messages_per_connection_max: u32,
    /// Recipients that a server may refuse on one connection before it is closed. Servers punish
    /// clients that ask for many unknown ones: Postfix makes them wait from the tenth error on.
    pub refusals_per_connection_max: usize,
    /// An idle connection is kept so long.
    pub connection_idle_ms: u64,
    /// A TCP connect.
    pub connect_timeout_ms: u64,
    /// Banner, EHLO, MAIL and RCPT replies (RFC 5321 section 4.5.3.2).
    pub reply_timeout_ms: u64,
    /// The reply to DATA.
    pub data_reply_timeout_ms: u64,
    /// One block of data leaving.
    pub data_block_timeout_ms: u64,
    /// The reply to the final dot.
    pub final_reply_timeout_ms: u64,
    /// A whole reply of a far server, all lines.
    pub reply_octets_max: usize,
    /// Lines of one reply of a far server.
    pub reply_lines_max: usize,
    /// Commands sent before their replies are read, so that neither side waits for the other with
    /// its buffers full (RFC 2920 section 3.1).
    pub pipelined_commands_max: usize,
    /// After a write failed or QUIT was sent: how long a last reply is waited for.
    pub last_reply_timeout_ms: u64,
    /// First pause before a dead destination is probed again; doubles up to the next.
    pub probe_pause_min_ms: u64,
    /// Longest pause before a dead destination is probed again.
    pub probe_pause_max_ms: u64,
    /// Messages whose outcome waits for the blacklist's outbox; beyond, connections wait, too.
    pub settling_max: usize,
    /// Servers tried for one message in one attempt.
    pub hops_tried_max: usize,
    /// Lines of the delivery log that wait to be written; more are dropped and counted.
    pub delivery_log_lines_max: usize,
    /// Addresses tried of one server's name.
    pub addresses_per_host_max: usize,
    /// One DNS question with all its retries.
    pub dns_timeout_ms: u64,

    // Authentication: whether a message is its sender's.
    /// SPF and DKIM of one message together; what is not known by then is not known.
    pub authentication_timeout_ms: u64,
    /// Questions to name servers for one message (RFC 7208 section 4.6.4 allows SPF ten terms, and
    /// some of them cost several).
    pub authentication_lookups_max: usize,
    /// DKIM signatures looked at, those of the sender's own domain first.
    pub authentication_signatures_max: usize,
    /// A longer header is not looked at.
    pub authentication_header_octets_max: usize,

    // What an operator is to be told of.
    /// Mail of a destination whose server answers, and that has not moved for so long, has stalled.
    pub stalled_after_ms: u64,
    /// A domain's refusals are compared with what is usual for it once in this time.
    pub refusals_window_ms: u64,

    // Callouts: what one node asks of customers' servers.
    /// A question, from RCPT to our reply, its connection included. Then the recipient is accepted.
    pub callout_timeout_ms: u64,
    /// Connections for questions to one domain's servers.
    pub callout_connections_max: usize,
    /// Questions to one domain's servers at a time; recipients beyond are accepted.
    pub callouts_waiting_max: usize,
    /// After a server gave no answer nobody asks it for so long.
    pub callout_pause_ms: u64,

    // What a node remembers and has to tell.
    /// Lines of the journal that wait to be written; more are dropped and counted.
    pub journal_lines_max: usize,
    /// All files of the journal; the oldest are removed before their 30 days when it has more.
    pub journal_octets_max: u64,
    /// A stop: how long each log's last lines are waited for, should its reader or disk stall.
    pub log_flush_timeout_ms: u64,
    /// Reports to return paths of ours that are remembered, so that none counts twice; more count
    /// for nothing.
    pub returns_kept_max: usize,

    // HTTP: the public (site and health) and metrics listeners, each.
    /// Connections; when there are more, those that ask nothing are closed first.
    pub http_connections_max: usize,
    /// A request's header, from the connection or the answer before it to its last line.
    pub http_header_timeout_ms: u64,

    // Blacklist: what a node has to tell the fleet.
    /// Events that wait for the fleet; more and the oldest are dropped and counted.
    pub blacklist_backlog_max: usize,
    /// How long events gather before they are proposed together.
    pub blacklist_linger_ms: u64,
    /// Other things learnt of recipients that wait for the fleet; more are dropped and counted.
    pub news_waiting_max: usize,
    /// How long these gather before they are proposed together.
    pub news_linger_ms: u64,
}

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;

impl Default for Limits {
    #[expect(clippy::too_many_lines, reason = "a flat list, a line a bound")]
    fn default() -> Self {
        Self {
            command_octets_max: 2 * KIB,
            command_discard_octets_max: MIB,
            session_commands_max: 100_000,
            session_errors_max: 20,
            session_messages_max: 25_000,
            recipients_max: 1000,
            sessions_max: 5000,
            sessions_per_network_max: 64,
            message_octets_max: 50 * MIB,
            discard_octets_max: 1024 * MIB,
            hops_max: 100,
            own_hops_max: 4,
            greet_pause_ms: 2,
            command_timeout_ms: 5 * MINUTE_MS,
            data_idle_timeout_ms: 3 * MINUTE_MS,
            data_timeout_ms: 30 * MINUTE_MS,
            linger_timeout_ms: 2 * SECOND_MS,
            accept_pause_ms: 100,
            tls_handshake_timeout_ms: 30 * SECOND_MS,
            drain_timeout_ms: 30 * SECOND_MS,
            segment_octets: 64 * MIB,
            disk_reserve_octets: 256 * MIB,
            inline_message_octets_max: 64 * KIB,
            fresh_cache_octets_max: 64 * KIB * KIB,
            spool_queue_octets_max: 64 * KIB * KIB,
            spool_batch_octets_max: 4 * KIB * KIB,
            spool_waiting_marks_max: 100_000,
            compact_live_percent: 50,
            compact_octets_per_second: 16 * MIB,
            outbound_connections_max: 2000,
            window_start: 5,
            messages_per_connection_max: 1000,
            refusals_per_connection_max: 8,
            connection_idle_ms: 2 * SECOND_MS,
            connect_timeout_ms: 30 * SECOND_MS,
            reply_timeout_ms: 5 * MINUTE_MS,
            data_reply_timeout_ms: 2 * MINUTE_MS,
            data_block_timeout_ms: 3 * MINUTE_MS,
            final_reply_timeout_ms: 10 * MINUTE_MS,
            reply_octets_max: 8 * KIB,
            reply_lines_max: 128,
            pipelined_commands_max: 100,
            last_reply_timeout_ms: 2 * SECOND_MS,
            probe_pause_min_ms: 5 * SECOND_MS,
            probe_pause_max_ms: 5 * MINUTE_MS,
            settling_max: 1000,
            hops_tried_max: 10,
            delivery_log_lines_max: 10_000,
            addresses_per_host_max: 4,
            dns_timeout_ms: 10 * SECOND_MS,
            authentication_timeout_ms: 3 * SECOND_MS,
            authentication_lookups_max: 40,
            authentication_signatures_max: 5,
            authentication_header_octets_max: 64 * KIB,
            stalled_after_ms: 15 * MINUTE_MS,
            refusals_window_ms: 5 * MINUTE_MS,
            callout_timeout_ms: 5 * SECOND_MS,
            callout_connections_max: 4,
            callouts_waiting_max: 100,
            callout_pause_ms: 30 * SECOND_MS,
            journal_lines_max: 10_000,
            journal_octets_max: 1024 * MIB,
            log_flush_timeout_ms: 5 * SECOND_MS,
            http_connections_max: 512,
            http_header_timeout_ms: 30 * SECOND_MS,
            returns_kept_max: 1_000_000,
            blacklist_backlog_max: 200_000,
            blacklist_linger_ms: 20,
            news_waiting_max: 20_000,
            news_linger_ms: 100,
        }
    }
}

/// A bound that can be set by its name.
#[derive(Debug)]
pub enum Slot<'a> {
    /// A number of things, or octets in memory.
    Usize(&'a mut usize),
    /// Octets on disk, or milliseconds.
    U64(&'a mut u64),
    /// A small number of things.
    U32(&'a mut u32),
}

impl<'a> From<&'a mut usize> for Slot<'a> {
    fn from(slot: &'a mut usize) -> Self {
        Self::Usize(slot)
    }
}

impl<'a> From<&'a mut u64> for Slot<'a> {
    fn from(slot: &'a mut u64) -> Self {
        Self::U64(slot)
    }
}

impl<'a> From<&'a mut u32> for Slot<'a> {
    fn from(slot: &'a mut u32) -> Self {
        Self::U32(slot)
    }
}

/// Names every field; one that is forgotten here does not compile.
macro_rules! slots {
    ($limits:ident: $($name:ident),* $(,)?) => {{
        let Limits { $($name),* } = $limits;
        vec![$((stringify!($name), Slot::from($name))),*]
    }};
}

impl Limits {
    /// Every bound by name, to be set from the configuration file.
    #[rustfmt::skip]
    #[expect(clippy::too_many_lines, reason = "a flat list, a line a bound")]
    pub fn slots(&mut self) -> Vec<(&'static str, Slot<'_>)> {
        slots!(self:
            command_octets_max,
            command_discard_octets_max,
            session_commands_max,
            session_errors_max,
            session_messages_max,
            recipients_max,
            sessions_max,
            sessions_per_network_max,
            message_octets_max,
            discard_octets_max,
            hops_max,
            own_hops_max,
            greet_pause_ms,
            command_timeout_ms,
            data_idle_timeout_ms,
            data_timeout_ms,
            linger_timeout_ms,
            accept_pause_ms,
            tls_handshake_timeout_ms,
            drain_timeout_ms,
            segment_octets,
            disk_reserve_octets,
            inline_message_octets_max,
            fresh_cache_octets_max,
            spool_queue_octets_max,
            spool_batch_octets_max,
            spool_waiting_marks_max,
            compact_live_percent,
            compact_octets_per_second,
            outbound_connections_max,
            window_start,
            messages_per_connection_max,
            refusals_per_connection_max,
            connection_idle_ms,
            connect_timeout_ms,
            reply_timeout_ms,
            data_reply_timeout_ms,
            data_block_timeout_ms,
            final_reply_timeout_ms,
            reply_octets_max,
            reply_lines_max,
            pipelined_commands_max,
            last_reply_timeout_ms,
            probe_pause_min_ms,
            probe_pause_max_ms,
            settling_max,
            hops_tried_max,
            delivery_log_lines_max,
            addresses_per_host_max,
            dns_timeout_ms,
            authentication_timeout_ms,
            authentication_lookups_max,
            authentication_signatures_max,
            authentication_header_octets_max,
            stalled_after_ms,
            refusals_window_ms,
            callout_timeout_ms,
            callout_connections_max,
            callouts_waiting_max,
            callout_pause_ms,
            journal_lines_max,
            journal_octets_max,
            log_flush_timeout_ms,
            http_connections_max,
            http_header_timeout_ms,
            returns_kept_max,
            blacklist_backlog_max,
            blacklist_linger_ms,
            news_waiting_max,
            news_linger_ms,
        )
    }
}
