//! What a worker counts and measures of its requests, between two looks at it.

use std::time::Duration;

use super::Office;
use crate::http::site::Site;
use crate::l4::measure;
use crate::observe::counters::{ConnectResult, RetryCause};
use crate::observe::reason::Reason;
use crate::observe::requests::{Mirrored, RequestRecord};
use crate::observe::sampling::Sampler;
use crate::registry::{ServerId, ServerState};
use crate::runtime::driver::Driver;
use crate::runtime::mail::Histograms;
use crate::runtime::tasks::Socket;
use crate::runtime::time::Time;

/// Requests for one look at the way to a server.
const PATH_EVERY: u8 = 16;

impl<D: Driver> Office<D> {
    /// Looks at the way to a server after one of [`PATH_EVERY`] requests: what the others cost is
    /// then not measurable.
    pub(in crate::http) fn measure_path(&self, server: ServerId, socket: &Socket<D>) {
        let nth = self.paths_skipped.get();
        self.paths_skipped.set((nth + 1) % PATH_EVERY);
        if nth == 0
            && let Some(path) = socket.path()
        {
            let counts = self.counts.server(server);
            measure::path(&mut self.rtt.borrow_mut(), counts, server, &path);
        }
    }

    pub(in crate::http) fn count_connect(
        &self,
        server: &ServerState,
        result: ConnectResult,
        began: Time,
    ) {
        self.counts.server(server.id).connects[result as usize].add(1);
        match result {
            ConnectResult::Ok => {
                self.counts.server(server.id).connects_http.add(1);
                let took = self.now().since(began);
                measure::record(&mut self.connects.borrow_mut(), server.id, took);
            }
            // Ours, not the server's.
            ConnectResult::Local => {}
            failed => {
                let outlier = self.pool_plan(server.pool).outlier;
                self.shared.suspect(server, outlier, Some(failed));
            }
        }
    }

    /// Counts a request that had a connection to this server, and whether the server failed it.
    pub(in crate::http) fn count_attempt(&self, server: &ServerState, failed: bool) {
        let counts = self.counts.server(server.id);
        counts.requests.add(1);
        counts.requests_failed.add(u64::from(failed));
    }

    /// Counts a request that this server answered, and thinks of the server by its answer.
    pub(in crate::http) fn count_answer(&self, server: &ServerState, status: u16) {
        let failed = status >= 500;
        self.count_attempt(server, failed);
        if failed {
            self.suspect(server);
        } else {
            Self::trust(server);
        }
    }

    pub(in crate::http) fn count_stolen(&self, server: ServerId) {
        self.counts.server(server).stolen.add(1);
    }

    pub(in crate::http) fn count_retry(&self, server: Option<ServerId>, reason: Reason) {
        if let Some(server) = server {
            self.counts.server(server).retries[RetryCause::of(reason) as usize].add(1);
        }
    }

    /// Counts a request, and gives it to the log.
    pub(in crate::http) fn account(&self, record: RequestRecord, logged: bool) {
        self.requests.borrow_mut().count(&record);
        let sample = self.snapshot.borrow().plan.log.lines.sample;
        let takes = |sampler: &mut Sampler| sampler.takes(sample, record.reason, record.status);
        // What a policy would have refused is written as it would be if the policy did.
        let told = !record.dry_run.is_empty();
        let logged = logged && (told || takes(&mut self.sampler.borrow_mut()));
        if logged && self.shared.requests[usize::from(self.worker)].push(record).is_err() {
            self.counts.log_dropped.add(1);
        }
    }

    /// Counts what the policies of a request took, and which of them refused it.
    pub(in crate::http) fn account_policies(
        &self,
        record: &RequestRecord,
        costs: &[(u16, Duration)],
        denied: &[u16],
    ) {
        self.requests.borrow_mut().count_policies(record, costs, denied);
    }

    /// Counts a copy of a request that came by a route of `site`.
    pub(in crate::http) fn count_mirrored(&self, site: &Site, route: usize, result: Mirrored) {
        if let Some(route) = site.label(Some(route as u32)) {
            let key = (site.listener.0, route, result);
            *self.requests.borrow_mut().mirrored.entry(key).or_default() += 1;
        }
    }

    /// Measures how long a server took for the head of an answer to a copy.
    pub(in crate::http) fn count_copy(&self, server: ServerId, took: Duration) {
        measure::record(&mut self.requests.borrow_mut().upstream, server, took);
    }

    /// What was measured since the last time.
    pub fn take_measures(&self, histograms: &mut Histograms) {
        histograms.requests = self.requests.take();
        for (server, histogram) in self.rtt.take() {
            add(&mut histograms.rtt, server, histogram);
        }
        for (server, histogram) in self.connects.take() {
            add(&mut histograms.connect, server, histogram);
        }
    }
}

/// Adds to the histogram of a server, or makes it the first.
fn add(
    all: &mut Vec<(ServerId, hdrhistogram::Histogram<u32>)>,
    server: ServerId,
    histogram: hdrhistogram::Histogram<u32>,
) {
    match all.iter_mut().find(|(known, _)| *known == server) {
        // Same bounds, so the sum is one.
        Some((_, sum)) => drop(sum.add(histogram)),
        None => all.push((server, histogram)),
    }
}
