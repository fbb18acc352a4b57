//! The `sluicegate` command.

mod cli;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgAction, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// A user-space gateway between a guest's network card and ordinary sockets
///
/// Sluicegate takes the Ethernet frames of a guest (a microVM, or here a network namespace), ends
/// its TCP, UDP and ICMP in user space, and goes on over this host's sockets with what policy
/// allows. The guest reaches this host's loopback at its gateway's address.
#[derive(Debug, Parser)]
#[command(
    name = "sluicegate",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  sluicegate demo                                       # see it work, in 15 seconds
  sluicegate run --egress allow -- curl http://example.com
  sluicegate run --egress deny -- bash                  # a shell that reaches nothing
  ip netns add box && sluicegate attach --netns box --config network.json
  sluicegate serve --socket /tmp/net.sock               # the network of a QEMU or libkrun machine
  sluicegate check network.json
  sluicegate ctl --control /tmp/net.ctl flows           # of a network with --control /tmp/net.ctl

SLUICEGATE_LOG sets what is logged: SLUICEGATE_LOG=debug, SLUICEGATE_LOG=sluicegate_host=trace."
)]
struct Arguments {
    /// Log more to the standard error (-v: progress, -vv: details)
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 1000)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(cli::run::RunArgs),
    Attach(cli::attach::AttachArgs),
    Serve(cli::serve::ServeArgs),
    Env(cli::env::EnvArgs),
    Check(cli::check::CheckArgs),
    Ctl(cli::ctl::CtlArgs),
    Top(cli::top::TopArgs),
    Replay(cli::replay::ReplayArgs),
    Demo(cli::demo::DemoArgs),
    #[cfg(feature = "krun")]
    Vm(cli::vm::VmArgs),
    // A name that begins so is not for people.
    #[command(hide = true, name = "_inside")]
    Inside(cli::inside::InsideArgs),
    #[command(hide = true, name = "_sandbox-probe")]
    SandboxProbe(cli::sandbox::SandboxProbeArgs),
    #[command(hide = true, name = "_demo-guest")]
    DemoGuest(cli::demo::guest::DemoGuestArgs),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(error),
    };
    log(arguments.verbose);
    match arguments.command {
        Command::Run(args) => cli::run::run(args),
        Command::Attach(args) => cli::attach::run(args),
        Command::Serve(args) => cli::serve::run(args),
        Command::Env(args) => cli::env::run(&args),
        Command::Check(args) => cli::check::run(&args),
        Command::Ctl(args) => cli::ctl::run(&args),
        Command::Top(args) => cli::top::run(&args),
        Command::Replay(args) => cli::replay::run(&args),
        Command::Demo(args) => cli::demo::run(args),
        #[cfg(feature = "krun")]
        Command::Vm(args) => cli::vm::run(args),
        Command::Inside(args) => cli::inside::run(&args),
        Command::SandboxProbe(args) => cli::sandbox::probe(&args),
        Command::DemoGuest(args) => cli::demo::guest::run(&args),
    }
}

/// Prints the help that was asked for, or what is wrong with the command line.
fn refuse(mut error: clap::Error) -> ExitCode {
    let kind = ContextKind::SuggestedSubcommand;
    if let Some(ContextValue::Strings(mut names)) = error.remove(kind) {
        names.retain(|name| !name.starts_with('_'));
        if !names.is_empty() {
            error.insert(kind, ContextValue::Strings(names));
        }
    }
    // Whoever has closed our output does not want it.
    let _ = error.print();
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    // Any other code of these is that of what they run.
    let runs_others = named.is_some_and(|name| name == "run" || name == "vm");
    let code = if runs_others && error.exit_code() != 0 { 125 } else { error.exit_code() };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Logs to the standard error: warnings, unless more is asked for. In colour to people only.
fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = match std::env::var("SLUICEGATE_LOG") {
        Ok(asked) => EnvFilter::try_new(&asked).unwrap_or_else(|error| {
            // Whoever has closed our standard error does not want it.
            let _ = writeln!(std::io::stderr(), "sluicegate: SLUICEGATE_LOG={asked}: {error}");
            EnvFilter::new(level)
        }),
        Err(_) => EnvFilter::new(level),
    };
    // https://no-color.org
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let in_colour = !is_plain && std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(in_colour);
    lines.with_writer(std::io::stderr).init();
}
