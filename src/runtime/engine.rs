//! Which driver carries the sessions: the ring, or epoll where the ring is refused.
//!
//! Chosen once, before anything is bound, and the same for all threads of a process: workers,
//! control, access log, load generator.

use std::io;

use super::uring;
use crate::config::plan::EngineChoice;

/// Says which engine `"auto"` means: `epoll` or `io_uring`. For tests, and for hosts where the
/// file is not one's own.
pub const ENGINE_VARIABLE: &str = "SLUICEGATE_ENGINE";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Uring,
    Epoll,
}

impl Engine {
    /// Why this engine was refused, in words.
    #[must_use]
    pub fn explain(self, error: &io::Error) -> String {
        match self {
            Self::Uring => uring::explain(error),
            Self::Epoll => error.to_string(),
        }
    }

    /// As status, metrics and logs name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// An engine that runs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub engine: Engine,
    /// Why it is not io_uring, if that was tried: cause and remedy in one line.
    pub refused: Option<String>,
}

impl From<Engine> for Chosen {
    fn from(engine: Engine) -> Self {
        Self { engine, refused: None }
    }
}

/// What `wanted` comes to on this host. `"auto"` takes the ring if it can, `"epoll"` asks for
/// none.
///
/// # Errors
/// One line: why io_uring is refused, or that [`ENGINE_VARIABLE`] says nothing known.
pub fn choose(wanted: EngineChoice) -> Result<Chosen, String> {
    let said = std::env::var(ENGINE_VARIABLE).unwrap_or_default();
    choose_with(wanted, &said, uring::probe)
}

fn choose_with(
    wanted: EngineChoice,
    said: &str,
    probe: impl FnOnce() -> Result<(), String>,
) -> Result<Chosen, String> {
    let wanted = match (wanted, said) {
        (EngineChoice::Auto, "epoll") => EngineChoice::Epoll,
        (EngineChoice::Auto, "io_uring") => EngineChoice::Uring,
        (_, "" | "auto" | "epoll" | "io_uring") => wanted,
        (_, other) => {
            return Err(format!(
                "{ENGINE_VARIABLE} is {other:?}; it may be \"auto\", \"io_uring\" or \"epoll\""
            ));
        }
    };
    match wanted {
        EngineChoice::Epoll => Ok(Engine::Epoll.into()),
        EngineChoice::Uring => probe().map(|()| Engine::Uring.into()),
        EngineChoice::Auto => Ok(match probe() {
            Ok(()) => Engine::Uring.into(),
            Err(cause) => Chosen { engine: Engine::Epoll, refused: Some(cause) },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<(), String> {
        Err("refused".into())
    }

    fn untouched() -> Result<(), String> {
        panic!("io_uring was tried")
    }

    #[test]
    fn auto_takes_the_ring_if_there_is_one_and_says_why_if_not() {
        let auto = |probe: fn() -> Result<(), String>| choose_with(EngineChoice::Auto, "", probe);
        assert_eq!(auto(|| Ok(())), Ok(Engine::Uring.into()));
        let epoll = Chosen { engine: Engine::Epoll, refused: Some("refused".into()) };
        assert_eq!(auto(refused), Ok(epoll));
    }

    #[test]
    fn io_uring_has_no_substitute_and_epoll_never_tries_a_ring() {
        assert_eq!(choose_with(EngineChoice::Uring, "", refused), Err("refused".into()));
        assert_eq!(choose_with(EngineChoice::Epoll, "", untouched), Ok(Engine::Epoll.into()));
    }

    #[test]
    fn the_variable_speaks_for_auto_alone_and_only_in_known_words() {
        assert_eq!(choose_with(EngineChoice::Auto, "epoll", untouched), Ok(Engine::Epoll.into()));
        assert_eq!(choose_with(EngineChoice::Auto, "io_uring", refused), Err("refused".into()));
        assert_eq!(choose_with(EngineChoice::Uring, "epoll", || Ok(())), Ok(Engine::Uring.into()));
        assert_eq!(
            choose_with(EngineChoice::Epoll, "io_uring", untouched),
            Ok(Engine::Epoll.into())
        );
        let error = choose_with(EngineChoice::Epoll, "kqueue", untouched).unwrap_err();
        assert!(error.contains("SLUICEGATE_ENGINE is \"kqueue\""), "{error}");
    }
}
