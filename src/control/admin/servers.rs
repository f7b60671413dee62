//! `PATCH /v1/pools/{pool}/servers/{server}`: what an operator wants of a server.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::answers::{Answer, JSON, error};
use super::places::Busy;
use super::{Context, body};
use crate::config::keys::nearest;
use crate::control::operator;
use crate::control::overrides::Wanted;
use crate::registry::AdminState;

/// Weights that a file may give.
const WEIGHTS: std::ops::RangeInclusive<u64> = 1..=1_000;

pub(super) async fn patch(
    request: Request<Incoming>,
    context: &Context,
    busy: &Busy,
    pool: &str,
    server: &str,
) -> Answer {
    let instance = &context.desk.instance;
    let plan = instance.snapshot().plan.clone();
    let id = match operator::find(&plan, pool, server) {
        Ok(id) => id,
        Err(detail) => return error(StatusCode::NOT_FOUND, "not-found", &detail),
    };
    let waiting = busy.waits();
    let body = body::json(request).await;
    drop(waiting);
    let wanted = match body {
        Ok(body) => wanted(&body),
        Err(answer) => return answer,
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(detail) => return error(StatusCode::BAD_REQUEST, "bad-request", &detail),
    };
    operator::change(&context.desk, &context.checks, &id, wanted);
    context.desk.heard().await;
    let (pool, server) = (pool.to_owned(), server.to_owned());
    super::routes::rendered(instance, JSON, move |instance| {
        let status = instance.status();
        let status = status.pools.get(&pool).and_then(|pool| pool.servers.get(&server));
        // Strings and numbers only: it always serialises.
        serde_json::to_string(&status).unwrap_or_default() + "\n"
    })
    .await
}

/// # Errors
/// What is wrong with the body, for whoever sent it.
fn wanted(body: &Value) -> Result<Wanted, String> {
    let Some(members) = body.as_object() else {
        return Err("the body must be an object: {\"state\":\"drain\",\"weight\":5}".into());
    };
    let mut wanted = Wanted::default();
    for (key, value) in members {
        match key.as_str() {
            "state" => wanted.state = Some(state(value)?),
            "weight" => wanted.weight = Some(weight(value)?),
            other => {
                let near = nearest(other, ["state", "weight"].into_iter());
                let hint = near.map_or_else(
                    || "; there are `state` and `weight`".to_owned(),
                    |near| format!("; did you mean `{near}`?"),
                );
                return Err(format!("unknown key {}{hint}", Value::from(other)));
            }
        }
    }
    Ok(wanted)
}

fn state(value: &Value) -> Result<AdminState, String> {
    let known = |word: &str| AdminState::ALL.into_iter().find(|state| state.as_str() == word);
    value
        .as_str()
        .and_then(known)
        .ok_or_else(|| format!("`state` is \"drain\", \"ready\" or \"maint\", found {value}"))
}

fn weight(value: &Value) -> Result<u16, String> {
    let fits = value.as_u64().filter(|weight| WEIGHTS.contains(weight));
    fits.and_then(|weight| u16::try_from(weight).ok()).ok_or_else(|| {
        format!(
            "`weight` is a whole number from 1 to 1000, found {value}; for none, drain the server"
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn state_and_weight_are_each_optional() {
        let of = |body: Value| wanted(&body).map(|wanted| (wanted.state, wanted.weight));
        assert_eq!(of(json!({})), Ok((None, None)));
        assert_eq!(of(json!({"weight": 1000})), Ok((None, Some(1_000))));
        let both = json!({"state": "maint", "weight": 1});
        assert_eq!(of(both), Ok((Some(AdminState::Maint), Some(1))));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (body, says) in [
            (json!([1]), "must be an object"),
            (json!({"sate": "drain"}), "did you mean `state`?"),
            (json!({"colour": 1}), "there are `state` and `weight`"),
            (json!({"state": "up"}), "found \"up\""),
            (json!({"state": null}), "found null"),
            (json!({"weight": 0}), "drain the server"),
            (json!({"weight": 1001}), "found 1001"),
            (json!({"weight": 1.5}), "found 1.5"),
            (json!({"weight": "5"}), "found \"5\""),
            (json!({"weight": -1}), "found -1"),
        ] {
            let error = wanted(&body).unwrap_err();
            assert!(error.contains(says), "{body}: {error}");
        }
    }
}
