//! Readings, keys and what comes of them.

use serde_json::json;

use super::*;

/// A status with the pool `pg` of two servers.
pub fn status(total: u64, second_state: &str) -> Status {
    let server = |state: &str, total: u64, p99: f64, detail: &str| {
        let quantiles = json!({ "p50": 0.25, "p90": 1.0, "p99": p99, "p999": p99 });
        json!({
            "addr": "10.0.0.1:5432", "state": state, "weight": 1, "override": null,
            "health": { "ok": state == "up", "detail": detail, "at": null },
            "backup": false, "max_conns": null, "active": 4, "total": total, "errors": total / 10,
            "latency_ms": { "connect": quantiles, "request": null }
        })
    };
    let status = json!({
        "version": "0.1.0", "pid": 4711, "uptime_s": 312.0, "ready": true, "engine": "io_uring",
        "config": {
            "hash": "9f2c000011112222", "loaded_at": "2026-11-24T15:04:05Z",
            "last_reload": { "ok": true, "at": "2026-11-24T15:04:05Z", "error": null }
        },
        "log": { "dropped": 5, "stalled": false },
        "workers": [
            { "id": 0, "cpu": 0, "sessions": 8, "busy": 0.32, "late": false },
            { "id": 1, "cpu": 1, "sessions": 4, "busy": 0.30, "late": false }
        ],
        "listeners": { "front": {
            "bind": ["0.0.0.0:5432"], "mode": "tcp", "pool": "pg", "active": 12,
            "total": total * 2, "refused": 1
        } },
        "pools": { "pg": { "balance": "least-conn", "held": 3, "servers": {
            "pg1": server("up", total, 50.0, "connected in 0.3 ms"),
            "pg2": server(second_state, total * 2, 2.0, "connection refused")
        } } }
    });
    serde_json::from_value(status).expect("the shape of a status")
}

/// Two readings a second apart, between which a server went down.
pub fn busy_model() -> Model {
    let mut model = Model::new(Column::Name);
    model.take(status(100, "up"), Duration::from_secs(1));
    model.take(status(150, "down"), Duration::from_secs(2));
    model
}

#[test]
fn rates_come_from_two_readings_and_the_time_between() {
    let mut model = Model::default();
    model.take(status(100, "up"), Duration::from_secs(1));
    assert_eq!(model.servers[0].rate, None);
    model.take(status(150, "up"), Duration::from_secs(3));
    assert_eq!(model.servers[0].rate, Some(25.0));
    assert_eq!(model.servers[0].error_rate, Some(2.5));
    assert_eq!(model.listeners[0].rate, Some(50.0));
    assert_eq!(model.listeners[0].curve, [50]);
    // Started anew: counters begin again, and a rate below zero there is none.
    model.take(status(10, "up"), Duration::from_secs(4));
    assert_eq!(model.servers[0].rate, None);
}

#[test]
fn a_change_of_state_is_an_event_with_its_reason() {
    let model = busy_model();
    let texts: Vec<&str> = model.events.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["pg/pg2 is down, was up: connection refused"]);
}

#[test]
fn an_api_that_goes_and_comes_is_told_once_each() {
    let mut model = busy_model();
    let before = model.events.len();
    for second in 3..6 {
        model.fail("refused".into(), Duration::from_secs(second));
    }
    model.take(status(200, "down"), Duration::from_secs(6));
    let texts: Vec<&str> =
        model.events.iter().skip(before).map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["refused", "the admin API answers again"]);
}

fn names(model: &Model) -> Vec<&str> {
    model.servers.iter().map(|row| row.server.as_str()).collect()
}

#[test]
fn each_column_orders_the_greatest_first_and_can_be_reversed() {
    let mut model = busy_model();
    for (sort, wanted) in [
        (Column::Name, ["pg1", "pg2"]),
        (Column::State, ["pg2", "pg1"]),
        (Column::Active, ["pg1", "pg2"]),
        (Column::Rate, ["pg2", "pg1"]),
        (Column::Errors, ["pg2", "pg1"]),
        (Column::P50, ["pg1", "pg2"]),
        (Column::P99, ["pg1", "pg2"]),
    ] {
        assert_eq!(model.sort, sort);
        assert_eq!(names(&model), wanted, "{sort:?}");
        model.press(Key::Letter('S'));
        assert_eq!(names(&model), [wanted[1], wanted[0]], "{sort:?} reversed");
        model.press(Key::Letter('S'));
        model.press(Key::Letter('s'));
    }
    assert_eq!(model.sort, Column::Name);
}

#[test]
fn a_filter_looks_at_names_states_and_reasons() {
    let mut model = busy_model();
    for (filter, wanted) in [("PG1", vec!["pg1"]), ("down", vec!["pg2"]), ("xyz", vec![])] {
        model.press(Key::Letter('/'));
        filter.chars().for_each(|letter| drop(model.press(Key::Letter(letter))));
        model.press(Key::Enter);
        assert_eq!(names(&model), wanted, "{filter}");
        model.press(Key::Escape);
    }
    assert_eq!(names(&model).len(), 2);
    assert_eq!(model.press(Key::Escape), Act::Quit);
}

#[test]
fn nothing_is_asked_of_a_server_without_a_yes() {
    let wish = Wish { pool: "pg".into(), server: "pg2".into(), change: Change::Maint };
    let mut model = busy_model();
    model.press(Key::Down);
    for no in [Key::Letter('n'), Key::Escape, Key::Enter, Key::Letter('m')] {
        assert_eq!(model.press(Key::Letter('m')), Act::Nothing);
        assert_eq!(model.mode, Mode::Asking(wish.clone()));
        assert_eq!(model.press(no), Act::Nothing);
        assert_eq!(model.mode, Mode::Looking);
    }
    model.press(Key::Letter('m'));
    assert_eq!(model.press(Key::Letter('y')), Act::Do(wish.clone()));
    model.answered(&wish, Err("403 Forbidden".into()));
    assert!(model.events.back().expect("told").1.contains("maint not possible: 403"));
}

#[test]
fn the_selected_server_stays_selected_while_rows_move() {
    let mut model = busy_model();
    model.press(Key::End);
    assert_eq!(model.selected().map(|row| row.server.as_str()), Some("pg2"));
    model.press(Key::Letter('s'));
    assert_eq!(model.selected, 0);
    assert_eq!(model.selected().map(|row| row.server.as_str()), Some("pg2"));
    assert_eq!(model.press(Key::Letter('q')), Act::Quit);
    assert_eq!(model.press(Key::Interrupt), Act::Quit);
}
