//! `sluicegate top`: the flows of a network that runs elsewhere, as they are now, with their rates.
//! Owns when it is looked, and what keys do; what is on the screen is `top/screen.rs`, what is
//! asked `ctl.rs`.

mod screen;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use self::screen::Screen;
use super::ctl;
use super::failure::{self, Failure};

/// Show the flows of a network as they are, the busiest first
///
/// The network is one that was started with `--control PATH`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if a key ended it, 1 if the network can't be asked (any more), 2 if the options are
wrong.

Keys: q ends it; s puts the table in another order; Up, Down, PageUp, PageDown and Home scroll.

Examples:
  sluicegate top --control /tmp/net.ctl
  sluicegate top --control /tmp/net.ctl --every 5
  watch -n 1 sluicegate ctl --control /tmp/net.ctl flows        # the same without rates")]
pub(crate) struct TopArgs {
    /// The control socket of the network
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_CONTROL")]
    control: PathBuf,
    /// Seconds between two looks
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// Shows it until somebody wants no more.
pub(crate) fn run(args: &TopArgs) -> ExitCode {
    failure::exit_code(show(args))
}

fn show(args: &TopArgs) -> Result<(), Failure> {
    if !io::stdout().is_terminal() {
        return Err("top needs a terminal; `sluicegate ctl flows` is for pipes".into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ask = || runtime.block_on(ctl::flows(&args.control));
    // What can't be asked at all is said on the screen that the user has.
    let flows = ask()?;
    let mut terminal = ratatui::try_init()?;
    let shown = watch(&mut terminal, flows, Duration::from_secs(args.every), ask);
    ratatui::try_restore()?;
    shown
}

/// Looks `every` so often, until a key ends it.
fn watch(
    terminal: &mut DefaultTerminal,
    first: ctl::Flows,
    every: Duration,
    ask: impl Fn() -> Result<ctl::Flows, Failure>,
) -> Result<(), Failure> {
    let mut screen = Screen::default();
    let mut flows = first;
    loop {
        let looked = now();
        screen.look(&flows, looked);
        loop {
            terminal.draw(|frame| screen.draw(frame))?;
            let left = every.saturating_sub(now().saturating_duration_since(looked));
            if left.is_zero() || !event::poll(left)? {
                break;
            }
            if is_end(&mut screen, &event::read()?) {
                return Ok(());
            }
        }
        flows = ask()?;
    }
}

/// Does what a key says. True: it is to end.
fn is_end(screen: &mut Screen, event: &Event) -> bool {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event else {
        return false;
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "other keys mean nothing here")]
    match code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Char('s' | 'S') => screen.turn_order(),
        KeyCode::Up => screen.scroll(-1),
        KeyCode::Down => screen.scroll(1),
        KeyCode::PageUp => screen.scroll_pages(-1),
        KeyCode::PageDown => screen.scroll_pages(1),
        KeyCode::Home => screen.scroll(isize::MIN),
        _ => {}
    }
    false
}

#[expect(clippy::disallowed_methods, reason = "rates are by the clock on the wall")]
fn now() -> Instant {
    Instant::now()
}
