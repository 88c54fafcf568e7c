//! The questions that wait, by domain, and who asks them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use super::Finding;
use crate::smtp::Address;

/// All domains with a question, an asker, or a server that gave no answer a moment ago.
#[derive(Debug)]
pub(super) struct Desk {
    domains: HashMap<String, Line>,
    askers_max: usize,
    waiting_max: usize,
}

/// What became of a question at the desk.
#[derive(Debug)]
pub(super) enum Ticket {
    /// It is in line; `start`: an asker is to be started for it.
    Waits {
        /// Where the answer comes.
        answer: oneshot::Receiver<Finding>,
        /// Whether the line needs another asker.
        start: bool,
    },
    /// The server was silent a moment ago.
    Silent,
    /// Too many wait for this server.
    Full,
}

/// The questions for one domain.
#[derive(Debug, Default)]
struct Line {
    /// Not asked yet, in order.
    queue: VecDeque<String>,
    /// By key: those of the queue, and those that are being asked.
    open: HashMap<String, Question>,
    askers: usize,
    idle: usize,
    /// Somebody looks for a name that nobody has.
    is_probing: bool,
    more: Arc<Notify>,
    silent_until: Option<Instant>,
}

/// One recipient, and all who want to know.
#[derive(Debug)]
struct Question {
    recipient: Address,
    answers: Vec<oneshot::Sender<Finding>>,
}

impl Desk {
    pub(super) fn new(askers_max: usize, waiting_max: usize) -> Self {
        Self { domains: HashMap::new(), askers_max: askers_max.max(1), waiting_max }
    }

    /// Put a question in line. The same one twice is asked once.
    pub(super) fn take_in(&mut self, recipient: &Address, key: String, now: Instant) -> Ticket {
        let line = self.domains.entry(recipient.domain().to_owned()).or_default();
        if line.silent_until.is_some_and(|until| now < until) {
            return Ticket::Silent;
        }
        let (send, answer) = oneshot::channel();
        if let Some(question) = line.open.get_mut(&key) {
            // As many as there are sessions, at most.
            question.answers.push(send);
            return Ticket::Waits { answer, start: false };
        }
        if line.open.len() >= self.waiting_max {
            return Ticket::Full;
        }
        let question = Question { recipient: recipient.clone(), answers: vec![send] };
        line.open.insert(key.clone(), question);
        line.queue.push_back(key);
        let start = line.idle == 0 && line.askers < self.askers_max;
        if start {
            line.askers += 1;
        } else {
            line.more.notify_one();
        }
        Ticket::Waits { answer, start }
    }

    /// The next question that somebody still waits for.
    pub(super) fn next(&mut self, domain: &str) -> Option<(String, Address)> {
        let line = self.domains.get_mut(domain)?;
        while let Some(key) = line.queue.pop_front() {
            if let Some(question) = line.open.get(&key) {
                if question.answers.iter().any(|answer| !answer.is_closed()) {
                    return Some((key, question.recipient.clone()));
                }
                line.open.remove(&key);
            }
        }
        None
    }

    /// Tell all who asked.
    pub(super) fn answer(&mut self, domain: &str, key: &str, finding: Finding) {
        let question = self.domains.get_mut(domain).and_then(|line| line.open.remove(key));
        for answer in question.into_iter().flat_map(|question| question.answers) {
            let _ = answer.send(finding); // who asked may have gone
        }
    }

    /// The server gave no answer: nobody waits for it now, and nobody asks before this time.
    pub(super) fn is_silent(&mut self, domain: &str, until: Instant) {
        let Some(line) = self.domains.get_mut(domain) else { return };
        line.silent_until = Some(until);
        line.queue.clear();
        for question in std::mem::take(&mut line.open).into_values() {
            for answer in question.answers {
                let _ = answer.send(Finding::Down); // who asked may have gone
            }
        }
    }

    /// An asker has nothing to do and waits for this.
    pub(super) fn wait(&mut self, domain: &str) -> Option<Arc<Notify>> {
        let line = self.domains.get_mut(domain)?;
        line.idle += 1;
        Some(Arc::clone(&line.more))
    }

    /// It waits no more.
    pub(super) fn go_on(&mut self, domain: &str) {
        if let Some(line) = self.domains.get_mut(domain) {
            line.idle -= 1;
        }
    }

    /// Whether this asker is the one who looks for a name that nobody has.
    pub(super) fn may_probe(&mut self, domain: &str) -> bool {
        let line = self.domains.get_mut(domain);
        line.is_some_and(|line| !std::mem::replace(&mut line.is_probing, true))
    }

    pub(super) fn probed(&mut self, domain: &str) {
        if let Some(line) = self.domains.get_mut(domain) {
            line.is_probing = false;
        }
    }

    /// An asker ends, unless there is a question after all.
    pub(super) fn may_leave(&mut self, domain: &str, now: Instant) -> bool {
        let Some(line) = self.domains.get_mut(domain) else { return true };
        if !line.queue.is_empty() {
            return false;
        }
        line.askers -= 1;
        // The silence of some server is remembered until somebody asks again, or all are looked at.
        self.domains.retain(|_, line| {
            line.askers > 0
                || !line.open.is_empty()
                || line.silent_until.is_some_and(|until| now < until)
        });
        true
    }
}
