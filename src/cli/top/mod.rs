//! `sluicegate top`: a running instance on a terminal, through its admin API.
//!
//! A thread of its own asks, so that keys are answered while an answer is awaited. [`model`] is
//! what is known, [`draw`] how it looks; both are pure. The terminal is given back as it was,
//! also after a panic and on SIGTERM.

mod draw;
mod model;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use super::ctl::{Client, Table, Target, TargetArgs};
use super::{FAILED, USAGE, fail, print_all};
use crate::loadgen::interrupt::Interrupt;
use crate::observe::status::Status;
use model::{Act, Column, Key, Model, Wish};

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(1);
/// Between two looks at keys and signals.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Print one table and end
    #[arg(long)]
    once: bool,
    /// What servers are ordered by, the greatest first
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t)]
    sort: Column,
}

#[must_use]
pub fn run(args: &TopArgs) -> ExitCode {
    let target = match args.target.find() {
        Ok(target) => target,
        Err(error) => return fail(USAGE, error),
    };
    if args.once {
        return once(target, args.sort);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return fail(USAGE, "top needs a terminal; `top --once` prints one table anywhere");
    }
    match live(target, args.sort) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(FAILED, format_args!("the terminal does not work: {error}")),
    }
}

fn read(client: &Client) -> Result<Status, String> {
    client.read(&client.get("/v1/status")?)
}

/// Two readings, for there to be rates.
fn once(target: Target, sort: Column) -> ExitCode {
    let (mut model, started) = (Model::new(sort), Instant::now());
    let (_wish, news) = match start_asking(target) {
        Ok(channels) => channels,
        Err(error) => return fail(FAILED, format_args!("cannot start: {error}")),
    };
    for news in news.iter().take(2) {
        match news {
            News::Read(Ok(status)) => model.take(*status, started.elapsed()),
            News::Read(Err(error)) => return fail(FAILED, error),
            News::Answered(..) => {}
        }
    }
    let colour = io::stdout().is_terminal() && colour();
    print_all(page(&model, colour).as_bytes())
}

fn page(model: &Model, colour: bool) -> String {
    let mut page = String::new();
    let mut listeners =
        Table::new(&["LISTENER", "MODE", "ADDRESS", "ACTIVE", "RATE/s", "TOTAL", "REFUSED"]);
    for row in &model.listeners {
        let [total, refused] = [row.total, row.refused].map(|count| count.to_string());
        let (active, rate) = (row.active.to_string(), draw::rate(row.rate));
        let (name, mode, address) = (row.name.clone(), row.mode.clone(), row.address.clone());
        listeners.row([name, mode, address, active, rate, total, refused]);
    }
    listeners.write(&mut page, false);
    page.push('\n');
    let mut servers = Table::new(&[
        "SERVER", "STATE", "ACTIVE", "RATE/s", "ERR/s", "TOTAL", "ERRORS", "P50", "P99", "WHY",
    ]);
    for row in &model.servers {
        servers.row([
            format!("{}/{}", row.pool, row.server),
            row.state.clone(),
            row.active.to_string(),
            draw::rate(row.rate),
            draw::rate(row.error_rate),
            row.total.to_string(),
            row.errors.to_string(),
            draw::ms(row.p50),
            draw::ms(row.p99),
            row.why.clone(),
        ]);
    }
    servers.write(&mut page, colour);
    page
}

fn colour() -> bool {
    !crate::observe::logger::no_color()
}

/// What the asking thread has to say.
enum News {
    Read(Result<Box<Status>, String>),
    Answered(Wish, Result<(), String>),
}

/// Asks once a period, and what is wished for at once. Ends when nobody listens any more.
#[allow(clippy::needless_pass_by_value)] // the thread owns them
fn ask(target: Target, wishes: Receiver<Wish>, news: Sender<News>) {
    let client = match Client::new(target) {
        Ok(client) => client,
        // Nobody may be there to hear it.
        Err(error) => return drop(news.send(News::Read(Err(error)))),
    };
    loop {
        let read = read(&client).map(Box::new);
        if news.send(News::Read(read)).is_err() {
            return;
        }
        match wishes.recv_timeout(PERIOD) {
            Ok(wish) => {
                let result = client.change(&wish.pool, &wish.server, wish.change.word());
                if news.send(News::Answered(wish, result)).is_err() {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn start_asking(target: Target) -> io::Result<(Sender<Wish>, Receiver<News>)> {
    let (wish, wishes) = channel();
    let (tell, news) = channel();
    let asking = std::thread::Builder::new().name("asking".into());
    asking.spawn(move || ask(target, wishes, tell))?;
    Ok((wish, news))
}

fn live(target: Target, sort: Column) -> io::Result<()> {
    // Before any other thread: they inherit the mask.
    let interrupt = Interrupt::new();
    let shown = target.url.to_string();
    let (wish, news) = start_asking(target)?;
    let (started, colour) = (Instant::now(), colour());
    let mut model = Model::new(sort);
    let mut terminal = Terminal(ratatui::try_init()?);
    loop {
        for news in news.try_iter() {
            match news {
                News::Read(Ok(status)) => model.take(*status, started.elapsed()),
                News::Read(Err(error)) => model.fail(error, started.elapsed()),
                News::Answered(wish, result) => model.answered(&wish, result),
            }
        }
        terminal.0.draw(|frame| draw::draw(&model, &shown, colour, frame))?;
        if interrupt.came() {
            return Ok(());
        }
        if !event::poll(TICK)? {
            continue;
        }
        let Some(key) = key_of(&event::read()?) else { continue };
        match model.press(key) {
            Act::Nothing => {}
            Act::Quit => return Ok(()),
            // It ends only after us.
            Act::Do(wanted) => drop(wish.send(wanted)),
        }
    }
}

/// The terminal, in raw mode and on its other page; as it was when dropped.
struct Terminal(ratatui::DefaultTerminal);

impl Drop for Terminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn key_of(event: &Event) -> Option<Key> {
    let key = event.as_key_event().filter(|key| key.kind == KeyEventKind::Press)?;
    Some(match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(letter) => Key::Letter(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
