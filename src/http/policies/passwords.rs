//! Passwords: slow hashes, worked out on a thread of their own, and remembered by each worker.

use std::rc::Rc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sluicegate_l7::policy::Denial;
use sluicegate_l7::policy::consumer::{PasswordHash, Principal};
use sluicegate_l7::policy::token_cache::TokenKey;

use super::super::office::Office;
use super::super::waiting::{Told, Word};
use super::rules::Rules;
use crate::runtime::driver::Driver;
use crate::runtime::mail::{Mail, Mailbox};

/// Passwords that wait to be looked at. A hash takes some tens of milliseconds, so the last of
/// them waits seconds; more than that are refused.
const WAITING_MAX: usize = 64;

/// How long a worker remembers a good password; a changed hash is another question.
const REMEMBERED: Duration = Duration::from_secs(300);
const REMEMBERED_MAX: usize = 10_000;

/// A task waits for its password no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A password that somebody gave, and whom to tell.
struct Question {
    hash: PasswordHash,
    password: Vec<u8>,
    mailbox: Mailbox,
    told: Told,
}

/// The thread that works hashes out. Until a consumer has a password there is none.
#[derive(Debug, Default)]
pub struct Passwords {
    queue: OnceLock<SyncSender<Question>>,
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Question(…)")
    }
}

impl Passwords {
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(&self) -> std::io::Result<()> {
        if self.queue.get().is_none() {
            let (queue, questions) = sync_channel(WAITING_MAX);
            std::thread::Builder::new().name("passwords".into()).spawn(move || work(&questions))?;
            // Only the control thread starts it, so nobody was faster.
            let _ = self.queue.set(queue);
        }
        Ok(())
    }
}

fn work(questions: &Receiver<Question>) {
    while let Ok(question) = questions.recv() {
        let Question { hash, password, mailbox, mut told } = question;
        told.good = hash.verify(&password);
        // A worker whose box is full has given up waiting long ago.
        let _ = mailbox.post(Mail::Told(told));
    }
}

/// Who it is, if the password is that of the name.
///
/// # Errors
/// When it cannot be worked out now.
pub(super) async fn verify<D: Driver>(
    office: &Rc<Office<D>>,
    rules: &Arc<Rules>,
    name: &str,
    password: &[u8],
) -> Result<Option<Arc<Principal>>, Denial> {
    let known = rules.consumers.password(name);
    // Somebody unknown takes as long as somebody known.
    let Some(hash) = known.or_else(|| rules.consumers.any_password()) else { return Ok(None) };
    let answers = office.passwords_known(rules, REMEMBERED_MAX);
    let question = [hash.as_str().as_bytes(), &[0], name.as_bytes(), &[0], password].concat();
    let (key, now) = (TokenKey::of(&question), office.unix_time());
    if known.is_some()
        && let Some(principal) = answers.find(&key, 0, now)
    {
        return Ok(Some(principal));
    }
    let good = ask(office, hash, password).await?;
    let principal = known.and_then(|_| rules.consumers.by_name(name)).filter(|_| good);
    if let Some(principal) = &principal {
        answers.keep(key, 0, Arc::clone(principal), now.saturating_add(REMEMBERED), now);
    }
    Ok(principal)
}

async fn ask<D: Driver>(
    office: &Rc<Office<D>>,
    hash: &PasswordHash,
    password: &[u8],
) -> Result<bool, Denial> {
    let full = || Denial::new("overloaded", 503).with_detail("too many passwords at once");
    let queue = office.passwords().queue.get().ok_or_else(Denial::unavailable)?;
    let word = Word::new(Rc::clone(office));
    let question = Question {
        hash: hash.clone(),
        password: password.to_vec(),
        mailbox: office.mailbox(),
        told: word.told(),
    };
    queue.try_send(question).map_err(|_| full())?;
    let shell = Rc::clone(office.shell());
    shell.timeout(shell.now() + PATIENCE, word.heard()).await.map_err(|_| full())
}
