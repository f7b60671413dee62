//! The demo on a terminal of at least 80 × 24: servers, load, events, what to try.
//!
//! [`draw`] is pure (a picture onto a frame); [`Screen`] owns the terminal and gives it back
//! as it was, also after a panic.

use std::io;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use ratatui::{DefaultTerminal, Frame};

use super::lines::to_try;
use super::picture::{Picture, Tone};
use crate::loadgen::report::{grouped, microseconds};

/// The smallest terminal that holds it; on a smaller one the demo prints lines.
pub const WIDTH_MIN: u16 = 80;
pub const HEIGHT_MIN: u16 = 24;

/// The terminal, in raw mode and on its other page.
#[derive(Debug)]
pub struct Screen {
    terminal: DefaultTerminal,
    colour: bool,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it is none, or does not do what terminals do.
    pub fn open() -> io::Result<Self> {
        let terminal = ratatui::try_init()?;
        Ok(Self { terminal, colour: !crate::observe::logger::no_color() })
    }

    /// Draws a picture. A failure to draw is not worth ending a demo for.
    pub fn show(&mut self, picture: &Picture) {
        let colour = self.colour;
        let _ = self.terminal.draw(|frame| draw(picture, colour, frame));
    }

    /// Waits up to `patience` for a key; says whether it is one that ends the demo.
    ///
    /// # Errors
    /// When the terminal has gone.
    pub fn wants_out(&self, patience: Duration) -> io::Result<bool> {
        Ok(event::poll(patience)? && is_way_out(&event::read()?))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn is_way_out(event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return false;
    };
    match code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        KeyCode::Char('c' | 'd') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// Colours where they are wanted, else weight alone.
#[derive(Clone, Copy, Debug)]
struct Palette {
    colour: bool,
}

impl Palette {
    fn tone(self, tone: Tone) -> Style {
        match (tone, self.colour) {
            (Tone::Good, true) => Style::new().fg(Color::Green),
            (Tone::Bad, true) => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            (Tone::Bad, false) => Style::new().add_modifier(Modifier::BOLD),
            (Tone::Good, false) | (Tone::Plain, _) => Style::new(),
        }
    }
}

/// Draws one picture.
pub fn draw(picture: &Picture, colour: bool, frame: &mut Frame<'_>) {
    let palette = Palette { colour };
    let trials = to_try(picture);
    let [title, servers, load, events, tries] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(picture.servers.len().max(3) as u16 + 3),
        Constraint::Length(5),
        Constraint::Min(3),
        Constraint::Length(trials.len() as u16 + 2),
    ])
    .areas(frame.area());
    draw_title(picture, frame, title);
    draw_servers(picture, palette, frame, servers);
    draw_load(picture, palette, frame, load);
    draw_events(picture, palette, frame, events);
    let lines: Vec<Line<'_>> = trials.iter().map(|line| Line::from(format!(" {line}"))).collect();
    let title = match picture.admin {
        Some(admin) => format!(" dashboard: http://{admin}/   or try "),
        None => " try ".to_owned(),
    };
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), tries);
}

fn draw_title(picture: &Picture, frame: &mut Frame<'_>, area: Rect) {
    let seconds = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let of = picture.length.map_or_else(String::new, |length| format!(" of {}", seconds(length)));
    let listener = picture.tcp.map_or_else(String::new, |tcp| tcp.to_string());
    let left = format!(" sluicegate demo   clients → {listener} → three servers");
    let right = format!("{}{of}   q ends it ", seconds(picture.elapsed));
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(left, bold), area);
    frame.render_widget(Line::from(right).right_aligned(), area);
}

fn draw_servers(picture: &Picture, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let header = ["server", "state", "sessions", "new/s", "total", "last check"];
    let rows = picture.servers.iter().map(|server| {
        let tone = if server.state == "up" { Tone::Good } else { Tone::Bad };
        Row::new([
            Span::raw(server.name.clone()),
            Span::styled(server.state.clone(), palette.tone(tone)),
            Span::raw(format!("{:>8}", server.active)),
            Span::raw(format!("{:>7}", grouped(server.fresh))),
            Span::raw(format!("{:>10}", grouped(server.total))),
            Span::raw(server.detail.clone()),
        ])
    });
    let widths = [
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(10),
        Constraint::Fill(1),
    ];
    let head = header.iter().enumerate().map(|(at, name)| match at {
        2 => format!("{name:>8}"),
        3 => format!("{name:>7}"),
        4 => format!("{name:>10}"),
        _ => (*name).to_owned(),
    });
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::DIM));
    let table = Table::new(rows, widths).header(head).column_spacing(2);
    frame.render_widget(table.block(Block::bordered().title(" servers ")), area);
}

fn draw_load(picture: &Picture, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::bordered().title(" load ");
    let [numbers, totals, curve] =
        Layout::vertical([Constraint::Length(1); 3]).areas(block.inner(area));
    frame.render_widget(block, area);
    let line = format!(
        " {} req/s   p50 {}   p99 {}   sessions {}   waiting {}",
        grouped(picture.rate),
        microseconds(picture.p50_us),
        microseconds(picture.p99_us),
        picture.sessions,
        picture.held,
    );
    frame.render_widget(Line::from(line), numbers);
    let tone = if picture.errors == 0 { Tone::Good } else { Tone::Bad };
    let errors = Span::styled(format!("errors {}", grouped(picture.errors)), palette.tone(tone));
    let requests = Span::raw(format!(" {} requests   ", grouped(picture.requests)));
    frame.render_widget(Line::from(vec![requests, errors]), totals);
    let shown = picture.rates.len().min(usize::from(curve.width));
    let rates: Vec<u64> = picture.rates.iter().skip(picture.rates.len() - shown).copied().collect();
    frame.render_widget(Sparkline::default().data(&rates), curve);
}

fn draw_events(picture: &Picture, palette: Palette, frame: &mut Frame<'_>, area: Rect) {
    let block = Block::bordered().title(" events ");
    let room = usize::from(block.inner(area).height);
    let newest_first = picture.events.iter().rev().take(room).map(|told| {
        let at = Span::raw(format!("{:>7.1} s  ", told.at.as_secs_f64()));
        Line::from(vec![at, Span::styled(told.text.clone(), palette.tone(told.tone))])
    });
    frame.render_widget(Paragraph::new(newest_first.collect::<Vec<_>>()).block(block), area);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::demo::picture::{ServerRow, Told};
    use crate::demo::web::Web;

    fn picture() -> Picture {
        let row = |name: &str, state: &str| ServerRow {
            name: name.into(),
            address: "127.0.0.1:40001".into(),
            state: state.into(),
            detail: "connected in 0.3 ms".into(),
            active: 5,
            total: 1234,
            fresh: 250,
        };
        let told = Told {
            at: Duration::from_secs(10),
            kind: "x",
            text: "green is killed".into(),
            tone: Tone::Bad,
        };
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Picture {
            elapsed: Duration::from_secs(12),
            length: Some(Duration::from_secs(30)),
            tcp: Some(at(8080)),
            web: Some(Web { address: at(8081), secure: at(8083), key: "k".into() }),
            admin: Some(at(8082)),
            servers: vec![row("blue", "up"), row("green", "down"), row("red", "up")],
            sessions: 13,
            rate: 2000,
            p50_us: 83.0,
            p99_us: 1234.0,
            requests: 24_000,
            rates: vec![1000, 2000, 2000].into(),
            events: [told].into(),
            ..Picture::default()
        }
    }

    fn drawn(picture: &Picture, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a test backend");
        terminal.draw(|frame| draw(picture, true, frame)).expect("drawn");
        terminal.backend().to_string()
    }

    #[test]
    fn everything_is_on_the_smallest_screen() {
        let text = drawn(&picture(), (WIDTH_MIN, HEIGHT_MIN));
        for part in [
            "127.0.0.1:8080",
            "0:12 of 0:30   q ends it",
            "green",
            "down",
            "1,234  connected in 0.3 ms",
            "2,000 req/s   p50 83.0 µs   p99 1.23 ms   sessions 13   waiting 0",
            "24,000 requests   errors 0",
            "10.0 s  green is killed",
            "dashboard: http://127.0.0.1:8082/",
            "curl http://127.0.0.1:8080/",
            "http://127.0.0.1:8081/keyed",
            "sluicegate ctl --admin http://127.0.0.1:8082 status",
            "curl http://127.0.0.1:8082/metrics",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }

    #[test]
    fn any_size_can_be_drawn() {
        for size in [(1, 1), (20, 5), (79, 23), (200, 60)] {
            drawn(&picture(), size);
            drawn(&Picture::default(), size);
        }
    }

    #[test]
    fn q_escape_and_control_c_end_it() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        assert!(is_way_out(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(is_way_out(&key(KeyCode::Esc, KeyModifiers::NONE)));
        assert!(is_way_out(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!is_way_out(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
    }
}
