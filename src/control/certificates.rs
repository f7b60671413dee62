//! Certificates, keys and authorities that change under the running process.
//!
//! Once a second, on a blocking thread: the files of every listener and pool with TLS are looked
//! at. A good new set is published in the next snapshot, for connections made from then on. A
//! bad one is said once, in the log and as an event, and that of a listener or pool is shown in
//! status and metrics until the files are good again; what was there before goes on to serve.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::desk::Desk;
use crate::config::plan::Plan;
use crate::fronts::Fronts;
use crate::observe::events::EventKind;
use crate::registry::{ListenerId, PoolId};
use crate::tls::certificates::LoadError;
use crate::tls::reload::{Found, Reloadable, Watched};
use crate::tls::server::ServerTls;
use crate::tls::upstream::ClientTls;

/// Between two looks: a new certificate is in use within a second of its being there.
const PERIOD: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug, Default)]
struct Watch {
    listeners: Vec<(ListenerId, Watched<ServerTls>)>,
    /// One, if the admin API speaks TLS.
    admin: Vec<((), Watched<ServerTls>)>,
    pools: Vec<(PoolId, Watched<ClientTls>)>,
}

/// What one look found to be different.
#[derive(Debug, Default)]
struct News {
    listeners: Vec<(ListenerId, Result<Arc<ServerTls>, LoadError>)>,
    admin: Vec<((), Result<Arc<ServerTls>, LoadError>)>,
    pools: Vec<(PoolId, Result<Arc<ClientTls>, LoadError>)>,
}

impl Watch {
    /// Reads the files of what is in the configuration; what is not has its last sessions and
    /// keeps what it has.
    fn new(plan: &Plan, fronts: &Fronts) -> Self {
        let listeners = fronts.listeners.iter().zip(&plan.listeners).enumerate();
        let listeners = listeners.filter_map(|(id, (front, listener))| {
            let tls = front.tls.as_ref().filter(|_| !listener.retired)?;
            Some((ListenerId(id as u16), Watched::new(Arc::clone(tls))))
        });
        let pools = fronts.pools.iter().zip(&plan.pools).enumerate();
        let pools = pools.filter_map(|(id, (back, pool))| {
            let tls = back.tls.as_ref().filter(|_| !pool.retired)?;
            Some((PoolId(id as u16), Watched::new(Arc::clone(tls))))
        });
        let admin = fronts.admin.iter().map(|tls| ((), Watched::new(Arc::clone(tls))));
        Self { listeners: listeners.collect(), admin: admin.collect(), pools: pools.collect() }
    }

    /// Looks once. Reads files.
    fn poll(&mut self) -> News {
        News {
            listeners: changed(&mut self.listeners),
            admin: changed(&mut self.admin),
            pools: changed(&mut self.pools),
        }
    }
}

fn changed<Id: Copy, T: Reloadable>(
    watched: &mut [(Id, Watched<T>)],
) -> Vec<(Id, Result<Arc<T>, LoadError>)> {
    let news = watched.iter_mut().filter_map(|(id, watched)| match watched.poll() {
        Found::Unchanged => None,
        Found::Fresh(fresh) => Some((*id, Ok(fresh))),
        Found::Kept(error) => Some((*id, Err(error))),
    });
    news.collect()
}

/// Watches the files of the plan in use for ever; returns at once when nothing has TLS.
pub(super) async fn watch(desk: Rc<Desk>) {
    let snapshot = desk.instance.snapshot();
    let fronts = &snapshot.fronts;
    let has_tls = fronts.listeners.iter().any(|front| front.tls.is_some())
        || fronts.pools.iter().any(|back| back.tls.is_some())
        || fronts.admin.is_some();
    if !has_tls {
        return;
    }
    let mut watch =
        tokio::task::spawn_blocking(move || Watch::new(&snapshot.plan, &snapshot.fronts)).await;
    loop {
        // It panicked: a defect, which has been printed. Serving goes on with what there is.
        let Ok(mut watched) = watch else { return };
        sleep(PERIOD).await;
        let looked = tokio::task::spawn_blocking(move || {
            let news = watched.poll();
            (watched, news)
        });
        watch = looked.await.map(|(watched, news)| {
            take(&desk, &news);
            watched
        });
    }
}

/// Publishes what can be used, and says what cannot.
fn take(desk: &Desk, news: &News) {
    let plan = &desk.instance.plan();
    for (id, found) in &news.listeners {
        let what = format!("listener {}", plan.listeners[usize::from(id.0)].name);
        tell(desk, &what, found.as_ref().err());
    }
    for ((), found) in &news.admin {
        tell(desk, "the admin API", found.as_ref().err());
    }
    for (id, found) in &news.pools {
        let what = format!("pool {}", plan.pools[usize::from(id.0)].name);
        tell(desk, &what, found.as_ref().err());
    }
    desk.instance.note_tls(|kept| {
        for (id, found) in &news.listeners {
            match found {
                Ok(_) => drop(kept.listeners.remove(id)),
                Err(error) => drop(kept.listeners.insert(*id, error.to_string())),
            }
        }
        for (id, found) in &news.pools {
            match found {
                Ok(_) => drop(kept.pools.remove(id)),
                Err(error) => drop(kept.pools.insert(*id, error.to_string())),
            }
        }
    });
    let fresh = news.listeners.iter().any(|(_, found)| found.is_ok())
        || news.admin.iter().any(|((), found)| found.is_ok())
        || news.pools.iter().any(|(_, found)| found.is_ok());
    if fresh {
        let snapshot = desk.instance.membership.refront(|fronts| renewed(fronts, news));
        desk.tell_membership(&snapshot);
    }
}

fn tell(desk: &Desk, what: &str, error: Option<&LoadError>) {
    let (kind, text) = match error {
        None => (
            EventKind::CertificatesRenewed,
            format!("the certificates of {what} were renewed; new connections get them"),
        ),
        Some(error) => (
            EventKind::CertificatesKept,
            format!(
                "the certificate files of {what} changed and cannot be used: {error}; it goes on \
                 with those it has"
            ),
        ),
    };
    match error {
        None => desk.log.info(&text),
        Some(_) => desk.log.error(&text),
    }
    desk.instance.events.push(kind, text);
}

fn renewed(fronts: &Fronts, news: &News) -> Fronts {
    let (mut listeners, mut pools) = (fronts.listeners.clone(), fronts.pools.clone());
    for (id, found) in &news.listeners {
        if let Ok(tls) = found {
            listeners[usize::from(id.0)].tls = Some(Arc::clone(tls));
        }
    }
    for (id, found) in &news.pools {
        if let Ok(tls) = found {
            pools[usize::from(id.0)].tls = Some(Arc::clone(tls));
        }
    }
    let renewed = news.admin.iter().find_map(|((), found)| found.as_ref().ok());
    let admin = renewed.or(fronts.admin.as_ref()).map(Arc::clone);
    let (rules, labels) = (Arc::clone(&fronts.rules), Arc::clone(&fronts.labels));
    Fronts { listeners, pools, admin, rules, labels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_files_of_a_listener_that_was_removed_are_not_watched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("main.toml");
        let certs = concat!(env!("CARGO_MANIFEST_DIR"), "/config/certs");
        let config = format!(
            "version = 1\n[listener.a]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n\
             tls = {{ cert = \"file:{certs}/www.pem\", key = \"file:{certs}/www.key\" }}\n\
             [pool.p]\nservers = {{ s = \"127.0.0.1:1\" }}\n"
        );
        std::fs::write(&path, config).unwrap();
        let mut plan = config::load(&path).unwrap().plan;
        let fronts = Fronts::new(&plan).unwrap();
        assert_eq!(Watch::new(&plan, &fronts).listeners.len(), 1);
        plan.listeners[0].retired = true;
        assert_eq!(Watch::new(&plan, &fronts).listeners.len(), 0);
    }
}
