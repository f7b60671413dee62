//! Fetches the workers' histograms and keeps the totals.
//!
//! A worker hands over what it measured since it was last asked, so an answer that came too
//! late must not be lost: the way back stays open and the next scrape takes it. Blocking, and
//! therefore called from blocking threads only.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::observe::histograms::Totals;
use crate::runtime::mail::{Histograms, Mail};
use crate::runtime::worker::WorkerHandle;

/// How long all workers together may take to answer. One that is stuck is shown as late.
const ANSWER_DEADLINE: Duration = Duration::from_millis(500);

/// Scrapes that come faster share one: 256 admin connections must not keep the workers busy.
const FRESH_FOR: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Scraper(Mutex<Scraped>);

/// What the last scrapes brought.
#[derive(Debug, Default)]
pub struct Scraped {
    pub totals: Totals,
    /// Workers that did not answer the last one in time.
    pub late: Vec<u16>,
    /// Questions not answered yet, by worker.
    asked: Vec<Option<Receiver<Histograms>>>,
    at: Option<Instant>,
}

impl Scraper {
    /// Asks all workers, waits for them, at most [`ANSWER_DEADLINE`], and returns the totals.
    pub fn scrape(&self, workers: &[WorkerHandle]) -> MutexGuard<'_, Scraped> {
        // Totals are merged whole or not at all.
        let mut scraped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if scraped.at.is_none_or(|at| at.elapsed() > FRESH_FOR) {
            scraped.ask(workers);
            scraped.wait(workers);
            scraped.at = Some(Instant::now());
        }
        scraped
    }
}

impl Scraped {
    fn ask(&mut self, workers: &[WorkerHandle]) {
        self.asked.resize_with(workers.len(), || None);
        for (worker, asked) in workers.iter().zip(&mut self.asked) {
            if asked.is_none() {
                let (answer, receiver) = sync_channel(1);
                // A full mailbox: the worker is stuck and will be late.
                if worker.mailbox.post(Mail::Scrape(answer)).is_ok() {
                    *asked = Some(receiver);
                }
            }
        }
    }

    fn wait(&mut self, workers: &[WorkerHandle]) {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        self.late.clear();
        for (worker, asked) in workers.iter().zip(&mut self.asked) {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = asked.as_ref().map(|receiver| receiver.recv_timeout(left));
            match answer {
                Some(Ok(part)) => {
                    self.totals.merge(&part);
                    *asked = None;
                }
                Some(Err(RecvTimeoutError::Timeout)) | None => self.late.push(worker.id),
                Some(Err(RecvTimeoutError::Disconnected)) => {
                    // It ended, or threw the question away.
                    self.late.push(worker.id);
                    *asked = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hdrhistogram::Histogram;

    use super::*;
    use crate::observe::counters::WorkerCounts;
    use crate::registry::ServerId;
    use crate::runtime::mail::Mailbox;

    fn worker() -> WorkerHandle {
        WorkerHandle {
            id: 0,
            cpu: None,
            mailbox: Mailbox::new().unwrap(),
            counts: Arc::new(WorkerCounts::default()),
        }
    }

    fn answer(worker: &WorkerHandle, values: u32) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(Mail::Scrape(sender)) = worker.mailbox.take() {
                let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 2).unwrap();
                histogram.record_n(100, values).unwrap();
                let connect = vec![(ServerId(0), histogram)];
                sender.send(Histograms { connect, ..Histograms::default() }).unwrap();
                return;
            }
            assert!(Instant::now() < until, "was not asked");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_late_answer_is_taken_by_the_next_scrape() {
        let (worker, scraper) = (worker(), Scraper::default());
        let first = scraper.scrape(std::slice::from_ref(&worker));
        assert_eq!(first.late, [0]);
        assert!(first.totals.connect.is_empty());
        drop(first);
        answer(&worker, 3);
        scraper.0.lock().unwrap().at = None;
        let second = scraper.scrape(std::slice::from_ref(&worker));
        assert!(second.late.is_empty());
        assert_eq!(second.totals.connect[&ServerId(0)].count(), 3);
    }
}
