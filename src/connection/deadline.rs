//! One timer per session. Moving a deadline back is only a number; the timer itself is set again
//! when it goes off too early, so that a session of a thousand commands does not arm a thousand
//! timers.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFuture;

/// Why something was not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The deadline passed.
    Late,
    /// The node began to stop. Told once.
    Stop,
}

/// A session's deadline, and its ear for the node's stop.
pub(super) struct Deadline<'p, 't> {
    sleep: Pin<&'p mut Sleep>,
    stop: Pin<&'p mut WaitForCancellationFuture<'t>>,
    due: Instant,
    stopping: bool,
}

impl<'p, 't> Deadline<'p, 't> {
    pub(super) fn new(
        sleep: Pin<&'p mut Sleep>,
        stop: Pin<&'p mut WaitForCancellationFuture<'t>>,
    ) -> Self {
        let due = sleep.deadline();
        Self { sleep, stop, due, stopping: false }
    }

    /// Move the deadline.
    pub(super) fn set(&mut self, due: Instant) {
        self.due = due;
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
    }

    /// Whether [`Interrupt::Stop`] was told.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Do `work` until the deadline, or until the node stops.
    pub(super) async fn or_stop<F: Future>(&mut self, work: F) -> Result<F::Output, Interrupt> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending if self.is_late(cx) => Poll::Ready(Err(Interrupt::Late)),
            Poll::Pending if self.hears_stop(cx) => Poll::Ready(Err(Interrupt::Stop)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Do `work` until the deadline, stop or not; `None` when it passed.
    pub(super) async fn or_late<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.is_late(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        while self.sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.due {
                return true;
            }
            self.sleep.as_mut().reset(self.due);
        }
        false
    }

    fn hears_stop(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.stopping && self.stop.as_mut().poll(cx).is_ready() {
            self.stopping = true;
            return true;
        }
        false
    }
}
