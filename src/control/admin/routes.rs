//! Which request is answered by what.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::oneshot;

use super::answers::{self, Answer, JSON, PLAIN, error, text};
use super::places::Busy;
use super::{Context, page, servers};
use crate::control::Command;
use crate::control::commands::Teller;
use crate::control::instance::{Instance, Phase};
use crate::observe::{clock, metrics};

/// One row: a path, where `{…}` stands for one segment, and what is done there.
struct Route {
    method: Method,
    path: &'static str,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Page,
    Health,
    Ready,
    Metrics,
    Status,
    Config,
    Events,
    Reload,
    PatchServer,
}

const fn get(path: &'static str, action: Action) -> Route {
    Route { method: Method::GET, path, action }
}

/// All there is. A GET is a HEAD too.
static ROUTES: [Route; 9] = [
    get("/", Action::Page),
    get("/healthz", Action::Health),
    get("/readyz", Action::Ready),
    get("/metrics", Action::Metrics),
    get("/v1/status", Action::Status),
    get("/v1/config", Action::Config),
    get("/v1/events", Action::Events),
    Route { method: Method::POST, path: "/v1/reload", action: Action::Reload },
    Route {
        method: Method::PATCH,
        path: "/v1/pools/{pool}/servers/{server}",
        action: Action::PatchServer,
    },
];

/// What a path and a method find.
#[derive(Debug, PartialEq, Eq)]
enum Found<'a> {
    Action(Action, Vec<&'a str>),
    /// The path is there, for these methods.
    Method(String),
    Nothing,
}

fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut allow = Vec::new();
    for route in &ROUTES {
        let Some(names) = captures(route.path, path) else { continue };
        if route.method == *method {
            return Found::Action(route.action, names);
        }
        allow.push(route.method.as_str());
        if route.method == Method::GET {
            allow.push(Method::HEAD.as_str());
        }
    }
    if allow.is_empty() { Found::Nothing } else { Found::Method(allow.join(", ")) }
}

/// What stands in the place of each `{…}`; `None`: another path.
fn captures<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
    let mut names = Vec::new();
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return Some(names),
            (Some(wanted), Some(name)) if wanted.starts_with('{') => names.push(name),
            (Some(wanted), Some(segment)) if wanted == segment => {}
            _ => return None,
        }
    }
}

pub(super) async fn answer(request: Request<Incoming>, context: &Context, busy: &Busy) -> Answer {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (action, names) = match find(&method, &path) {
        Found::Action(action, names) => (action, names),
        Found::Method(allow) => return wrong_method(&allow),
        Found::Nothing => {
            let paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
            let detail = format!("see {}", paths.join(", "));
            return error(StatusCode::NOT_FOUND, "not-found", &detail);
        }
    };
    let instance = &context.desk.instance;
    match action {
        Action::Page => page::answer(),
        Action::Health => health(instance),
        Action::Ready => ready(instance.phase()),
        Action::Metrics => rendered(instance, metrics::CONTENT_TYPE, Instance::metrics).await,
        Action::Status => rendered(instance, JSON, status).await,
        Action::Config => rendered(instance, JSON, config).await,
        Action::Events => match context.streams.open(instance, request.headers()) {
            Some(stream) => answers::events(stream),
            None => answers::busy("as many streams of events as there may be are open"),
        },
        Action::Reload => reload(&context.commands).await,
        Action::PatchServer => {
            let [pool, server] = names[..] else { return wrong_method("PATCH") };
            servers::patch(request, context, busy, pool, server).await
        }
    }
}

/// Reads the configuration again: 200 with what changed, 422 with the report of what is wrong;
/// 503 when this is not the time for it.
async fn reload(commands: &Teller) -> Answer {
    let (reply, done) = oneshot::channel();
    // Not taken: the reply is gone with it, which is heard here.
    let _ = commands.send(Command::Reload(Some(reply))).await;
    let reload = match done.await {
        Ok(Ok(reload)) => reload,
        Ok(Err(why)) => return error(StatusCode::SERVICE_UNAVAILABLE, "not-now", why),
        Err(_) => {
            return error(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the process is stopping");
        }
    };
    let body = serde_json::json!({
        "ok": reload.outcome.is_ok(),
        "at": clock::rfc3339(reload.at),
        "error": reload.outcome.as_ref().err(),
        "changes": reload.outcome.as_ref().ok(),
        "pending": reload.pending,
        "warnings": reload.warnings,
    });
    let status = match reload.outcome {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    text(status, JSON, body.to_string() + "\n")
}

fn wrong_method(allow: &str) -> Answer {
    let detail = format!("here: {allow}");
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "method", &detail);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        answer.headers_mut().insert(ALLOW, allow);
    }
    answer
}

fn status(instance: &Instance) -> String {
    // Strings and numbers only: it always serialises.
    serde_json::to_string(&instance.status()).unwrap_or_default() + "\n"
}

fn config(instance: &Instance) -> String {
    format!("{:#}\n", instance.snapshot().plan.shown)
}

/// Asking the workers blocks, and rendering takes its time.
pub(super) async fn rendered(
    instance: &Arc<Instance>,
    media: &'static str,
    render: impl FnOnce(&Instance) -> String + Send + 'static,
) -> Answer {
    let instance = instance.clone();
    match tokio::task::spawn_blocking(move || render(&instance)).await {
        Ok(body) => text(StatusCode::OK, media, body),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "rendering failed"),
    }
}

fn health(instance: &Instance) -> Answer {
    let stuck: Vec<_> = instance.stuck().iter().map(|id| format!("worker {id}")).collect();
    if stuck.is_empty() {
        return text(StatusCode::OK, PLAIN, "ok\n".into());
    }
    text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("stuck: {}\n", stuck.join(", ")))
}

fn ready(phase: Phase) -> Answer {
    let (status, word) = match phase {
        Phase::Ready => (StatusCode::OK, "ready\n"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Phase::Draining | Phase::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    };
    text(status, PLAIN, word.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_table_is_found_with_its_names() {
        let names = vec!["pg", "pg1"];
        let found = find(&Method::PATCH, "/v1/pools/pg/servers/pg1");
        assert_eq!(found, Found::Action(Action::PatchServer, names));
        assert_eq!(find(&Method::HEAD, "/metrics"), Found::Action(Action::Metrics, vec![]));
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones_and_other_paths_are_not_there() {
        let allow = |methods: &str| Found::Method(methods.to_owned());
        assert_eq!(find(&Method::POST, "/v1/status"), allow("GET, HEAD"));
        assert_eq!(find(&Method::GET, "/v1/pools/a/servers/b"), allow("PATCH"));
        for path in ["", "/v1", "/v1/status/", "/v1/pools/a/servers", "/v1/pools/a/servers/b/c"] {
            assert_eq!(find(&Method::GET, path), Found::Nothing, "{path}");
        }
    }
}
