//! The terminal, which the screen takes over and always restores.

use std::{
    io::{self, BufWriter, Stderr, Write as _},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{self, Event},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use tokio::sync::mpsc;

use crate::cli::output;

/// True while the screen owns the terminal. A panic anywhere restores the terminal.
static UP: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal in raw mode, with a screen of its own. Dropping the value restores the terminal.
pub(super) struct Screen {
    // Standard output is for results.
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
}

impl Screen {
    pub(super) fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        let backend = CrosstermBackend::new(BufWriter::new(io::stderr()));
        let terminal = Terminal::new(backend)?;
        UP.store(true, Ordering::SeqCst);
        // From here on, dropping `screen` restores the terminal.
        let screen = Self { terminal };
        output::hold();
        enable_raw_mode()?;
        execute!(io::stderr(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    /// Draws one frame, in the size that the terminal has now.
    ///
    /// # Errors
    /// Fails if the terminal takes no output, or if a panic has restored the terminal.
    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if !UP.load(Ordering::SeqCst) {
            return Err(io::Error::other(
                "the terminal was given back after a panic",
            ));
        }
        self.terminal.draw(frame)?;
        Ok(())
    }

    pub(super) fn leave(self) {}
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Leaves raw mode and the screen, and writes the lines that were held back. A second call does nothing.
fn give_back() {
    if UP.swap(false, Ordering::SeqCst) {
        // Each step is tried even if an earlier one fails.
        let _ = disable_raw_mode();
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
        let _ = io::stderr().flush();
        output::release();
    }
}

/// The longest read, which bounds the time that stopping [`Input`] takes.
const READ_FOR: Duration = Duration::from_millis(50);

/// The thread that reads keys and resizes.
pub(super) struct Input {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Input {
    pub(super) fn start() -> (Self, mpsc::UnboundedReceiver<io::Result<Event>>) {
        let (send, events) = mpsc::unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let read = move || {
            while !stopped.load(Ordering::SeqCst) {
                let event = match event::poll(READ_FOR) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let failed = event.is_err();
                if send.send(event).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::spawn(read);
        let input = Self {
            stop,
            thread: Some(thread),
        };
        (input, events)
    }

    /// Returns once the thread has stopped reading the terminal.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        self.stop();
    }
}
