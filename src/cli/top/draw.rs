//! One picture of a [`Model`] on a frame of any size; on 80 × 24 all of it is there.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Table, TableState};

use super::model::{Column, ListenerRow, Mode, Model, ServerRow, short};
use crate::loadgen::report::grouped;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A share of the height for listeners, so that servers always have room.
const LISTENERS_SHARE: u16 = 3;

/// Columns of servers, how wide, and what they are ordered by.
const SERVER_COLUMNS: [(&str, u16, Option<Column>); 9] = [
    ("SERVER", 18, Some(Column::Name)),
    ("STATE", 8, Some(Column::State)),
    ("ACTIVE", 6, Some(Column::Active)),
    ("RATE/s", 7, Some(Column::Rate)),
    ("ERR/s", 5, Some(Column::Errors)),
    ("P50", 7, Some(Column::P50)),
    ("P99", 7, Some(Column::P99)),
    ("TREND", 8, None),
    ("WHY", 0, None),
];

/// Draws everything. Without `colour`, weight alone tells states apart.
pub(super) fn draw(model: &Model, url: &str, colour: bool, frame: &mut Frame<'_>) {
    let height = frame.area().height;
    let listeners = (model.listeners.len() as u16 + 1).min((height / LISTENERS_SHARE).max(2));
    let events = if height >= 24 { (height / 6).max(4) } else { 3 };
    let [title, process, top, middle, bottom, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(listeners + 1),
        Constraint::Min(3),
        Constraint::Length(events),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_title(model, url, colour, frame, title);
    frame.render_widget(Line::from(process_line(model)), process);
    draw_listeners(model, frame, top);
    draw_servers(model, colour, frame, middle);
    draw_events(model, frame, bottom);
    frame.render_widget(key_line(model), keys);
}

fn bad(colour: bool) -> Style {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if colour { bold.fg(Color::Red) } else { bold }
}

fn state_style(state: &str, colour: bool) -> Style {
    match state {
        "up" if colour => Style::new().fg(Color::Green),
        "up" => Style::new(),
        "down" => bad(colour),
        _ if colour => Style::new().fg(Color::Yellow),
        _ => Style::new().add_modifier(Modifier::BOLD),
    }
}

fn draw_title(model: &Model, url: &str, colour: bool, frame: &mut Frame<'_>, area: Rect) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let left = match (&model.problem, &model.status) {
        (Some(problem), _) => Line::styled(format!(" {problem}"), bad(colour)),
        (None, None) => Line::styled(format!(" sluicegate top  asking {url}"), bold),
        (None, Some(status)) => {
            let ready = if status.ready { "ready" } else { "NOT READY" };
            let hash = short(&status.config.hash);
            let pid = status.pid;
            let text = format!(
                " sluicegate {}  {ready}  up {}  pid {pid}  config {hash}",
                status.version,
                span(status.uptime_s)
            );
            Line::styled(text, bold)
        }
    };
    frame.render_widget(left, area);
}

fn process_line(model: &Model) -> String {
    let Some(status) = &model.status else { return String::new() };
    let sessions: u32 = status.workers.iter().map(|worker| worker.sessions).sum();
    let busy: f64 = status.workers.iter().map(|worker| worker.busy).sum();
    let busy = busy / status.workers.len().max(1) as f64 * 100.0;
    let held: u32 = status.pools.values().map(|pool| pool.held).sum();
    let log = match (status.log.stalled, status.log.dropped) {
        (true, lost) => format!("   log STALLED, {lost} lines lost"),
        (false, 0) => String::new(),
        (false, lost) => format!("   log: {lost} lines lost"),
    };
    let reload = if status.config.last_reload.ok { "" } else { "   LAST RELOAD FAILED" };
    let workers = status.workers.len();
    format!(
        " {workers} workers  {busy:.0} % busy   {sessions} sessions   {held} waiting{log}{reload}"
    )
}

fn draw_listeners(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let head = ["LISTENER", "MODE", "ADDRESS", "ACTIVE", "RATE/s", "TOTAL", "REFUSED", "TREND"];
    let rows = model.listeners.iter().map(|row| {
        let ListenerRow { name, mode, address, .. } = row;
        Row::new([
            name.clone(),
            mode.clone(),
            address.clone(),
            right(&row.active.to_string(), 6),
            right(&rate(row.rate), 7),
            right(&grouped(row.total), 11),
            right(&grouped(row.refused), 7),
            curve(&row.curve, 8),
        ])
    });
    let widths = [
        Constraint::Fill(2),
        Constraint::Length(8),
        Constraint::Fill(3),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    let head = head.map(|name| match name {
        "RATE/s" | "REFUSED" => right(name, 7),
        "TOTAL" => right(name, 11),
        _ => name.to_owned(),
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(1), area);
}

fn draw_servers(model: &Model, colour: bool, frame: &mut Frame<'_>, area: Rect) {
    let rows = model.servers.iter().map(|row| server_row(row, colour));
    let widths = SERVER_COLUMNS.map(|(name, width, _)| match name {
        "SERVER" => Constraint::Fill(3),
        "WHY" => Constraint::Fill(2),
        _ => Constraint::Length(width),
    });
    let head = SERVER_COLUMNS.map(|(name, width, column)| {
        let mark = if model.reversed { '↑' } else { '↓' };
        let sorted = column == Some(model.sort);
        let name = if sorted { format!("{name}{mark}") } else { name.to_owned() };
        if (3..=6).contains(&position(column)) { right(&name, usize::from(width)) } else { name }
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::DIM));
    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    let title = if model.filter.is_empty() {
        format!(" servers {} ", model.servers.len())
    } else {
        format!(" servers {} with \"{}\" ", model.servers.len(), model.filter)
    };
    let table = Table::new(rows, widths)
        .header(head)
        .column_spacing(1)
        .row_highlight_style(reversed)
        .block(Block::new().borders(ratatui::widgets::Borders::TOP).title(title));
    let mut state = TableState::new();
    state.select((!model.servers.is_empty()).then_some(model.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn position(column: Option<Column>) -> usize {
    Column::ALL.iter().position(|&one| Some(one) == column).unwrap_or(0)
}

fn server_row(row: &ServerRow, colour: bool) -> Row<'static> {
    Row::new([
        Span::raw(format!("{}/{}", row.pool, row.server)),
        Span::styled(row.state.clone(), state_style(&row.state, colour)),
        Span::raw(right(&row.active.to_string(), 6)),
        Span::raw(right(&rate(row.rate), 7)),
        Span::raw(right(&rate(row.error_rate), 5)),
        Span::raw(right(&ms(row.p50), 7)),
        Span::raw(right(&ms(row.p99), 7)),
        Span::raw(curve(&row.curve, 8)),
        Span::raw(row.why.clone()),
    ])
}

fn draw_events(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::new().borders(ratatui::widgets::Borders::TOP).title(" events ");
    let room = usize::from(block.inner(area).height);
    let lines = model.events.iter().rev().take(room).map(|(at, text)| {
        let ago = model.now.saturating_sub(*at).as_secs_f64();
        Line::from(format!(" {:>7} ago  {text}", span(ago)))
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
}

fn key_line(model: &Model) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match &model.mode {
        Mode::Looking => {
            Line::from(" q quit  ↑↓ choose  s sort  S reverse  / filter  d drain  r ready  m maint")
        }
        Mode::Filtering => {
            Line::styled(format!(" filter: {}_   Enter keeps it, Esc drops it", model.filter), bold)
        }
        Mode::Asking(wish) => {
            let (pool, server, word) = (&wish.pool, &wish.server, wish.change.word());
            Line::styled(format!(" {word} {pool}/{server}?   y yes, any other key no"), bold)
        }
    }
}

fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

/// `-` while unknown; whole numbers from ten on.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        Some(rate) if rate < 99_999.5 => format!("{rate:.0}"),
        Some(rate) => format!("{:.0}k", rate / 1_000.0),
    }
}

/// Milliseconds with their unit, in at most seven places.
pub(super) fn ms(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1.0 => format!("{:.0}µs", ms * 1_000.0),
        Some(ms) if ms < 1_000.0 => format!("{ms:.1}ms"),
        Some(ms) => format!("{:.1}s", ms / 1_000.0),
    }
}

/// The last `width` values as bars, the highest of them full.
fn curve(values: &[u64], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().copied().max().unwrap_or(0).max(1);
    let bar = |&value: &u64| BARS[(value * 7 / most) as usize];
    shown.iter().map(bar).collect()
}

/// `2d 3h`, `5m 12s`, `4s`.
fn span(seconds: f64) -> String {
    crate::cli::ctl::span(seconds)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::top::model::Key;
    use crate::cli::top::model::tests::busy_model;

    fn drawn(model: &Model, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test backend");
        let url = "http://127.0.0.1:9901";
        terminal.draw(|frame| draw(model, url, true, frame)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_on_the_smallest_screen_and_on_a_larger_one() {
        for size in [(80, 24), (120, 40)] {
            let text = drawn(&busy_model(), size);
            for part in [
                "sluicegate 0.1.0  ready  up 5m 12s  pid 4711  config 9f2c0000",
                "2 workers  31 % busy   12 sessions   3 waiting   log: 5 lines lost",
                "front",
                "pg/pg1",
                "pg/pg2",
                "down",
                "connection",
                "servers 2",
                "50.0ms",
                "pg/pg2 is down, was up: connection refused",
                "q quit",
            ] {
                assert!(text.contains(part), "no `{part}` at {size:?} in\n{text}");
            }
        }
    }

    #[test]
    fn any_size_can_be_drawn_with_and_without_a_reading() {
        for size in [(1, 1), (20, 5), (79, 23), (300, 80)] {
            drawn(&busy_model(), size);
            drawn(&Model::default(), size);
        }
    }

    #[test]
    fn a_question_and_a_filter_stand_in_the_last_line() {
        let mut model = busy_model();
        model.press(Key::Letter('d'));
        assert!(drawn(&model, (80, 24)).contains("drain pg/pg1?   y yes"), "asks");
        model.press(Key::Escape);
        model.press(Key::Letter('/'));
        model.press(Key::Letter('2'));
        let text = drawn(&model, (80, 24));
        assert!(text.contains("filter: 2_") && !text.contains("pg/pg1"), "{text}");
    }

    #[test]
    fn a_failed_reading_is_the_title_until_the_next_good_one() {
        let mut model = busy_model();
        model.fail("http://127.0.0.1:9901 cannot be asked: refused".into(), Duration::from_secs(3));
        assert!(drawn(&model, (80, 24)).contains("cannot be asked: refused"));
    }

    #[test]
    fn numbers_fit_their_columns() {
        assert_eq!(
            [None, Some(1.25), Some(12_345.0), Some(1.2e6)].map(rate),
            ["-", "1.2", "12345", "1200k"]
        );
        assert_eq!(
            [None, Some(0.25), Some(12.34), Some(2_500.0)].map(ms),
            ["-", "250µs", "12.3ms", "2.5s"]
        );
        assert_eq!(curve(&[0, 7, 14], 2), "▄█");
        assert_eq!(curve(&[], 2), "");
    }
}
