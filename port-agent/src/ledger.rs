//! `ledger`: the history of the host, shown, followed and verified.

use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use shared::attachment::Engine;
use shared::config::Config;
use shared::error::chain;
use shared::ledger::{Action, Break, Entry, Filter, Ledger, Line, Report, Time};

use crate::Failure;
use crate::table::{self, container, printable};

/// Between two looks at a ledger that is followed.
const POLL: Duration = Duration::from_millis(250);

/// Arguments of `ledger`.
#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the acts of the past as a table, the newest last.
    #[command(after_help = "Examples:
  ovs-port-agent ledger show --since 2h
  ovs-port-agent ledger show --container 4f5a --action attach
  ovs-port-agent ledger show --json | jq -r .port")]
    Show {
        #[command(flatten)]
        filter: FilterArgs,
        /// Print the lines as they are in the ledger: one JSON object each.
        #[arg(long)]
        json: bool,
    },
    /// Show the newest acts, one a line.
    #[command(after_help = "Examples:
  ovs-port-agent ledger tail -n 20
  ovs-port-agent ledger tail --follow --bridge ovsbr1")]
    Tail {
        /// How many.
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: usize,
        /// Go on and show each act as it happens.
        #[arg(short, long)]
        follow: bool,
        /// Stop following after this time.
        #[arg(long, value_name = "SECONDS", requires = "follow")]
        timeout: Option<u64>,
        #[command(flatten)]
        filter: FilterArgs,
        /// Print the lines as they are in the ledger: one JSON object each.
        #[arg(long)]
        json: bool,
    },
    /// Check every line, its number and its place in the chain. Exit code 1 if anything is wrong.
    #[command(after_help = "Examples:
  ovs-port-agent ledger verify
  ovs-port-agent ledger verify --json | jq .first_break")]
    Verify {
        /// Print one JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
}

/// Which lines to show.
#[derive(Debug, Args)]
struct FilterArgs {
    /// Container id, or how it begins.
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// Network.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Bridge.
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// Port.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// What was done: boot, attach, detach, collect, up, down, chain-break, rotate.
    #[arg(long, value_parser = action)]
    action: Option<Action>,
    /// Who did it: cni, docker, podman, port-agent …
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Not before: a time (2026-11-23T20:38:14Z), a date, or an age (2h, 3days). UTC.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Time>,
    /// Not after: as for --since.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Time>,
    /// Boot id (/proc/sys/kernel/random/boot_id), or how it begins.
    #[arg(long, value_name = "ID")]
    boot: Option<String>,
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        let FilterArgs { container, network, bridge, port, action, actor, since, until, boot } =
            args;
        Self { container, network, bridge, port, action, actor, since, until, boot }
    }
}

fn action(text: &str) -> Result<Action, String> {
    let words = Action::ALL.map(Action::as_str);
    let found = Action::ALL.into_iter().find(|action| action.as_str() == text);
    found.ok_or_else(|| format!("expected one of {}", words.join(", ")))
}

fn moment(text: &str) -> Result<Time, shared::ledger::NoMoment> {
    Time::now().moment(text)
}

/// Exit code 1 says that verification found something wrong.
pub(crate) fn run(
    config: &Config,
    arguments: LedgerArgs,
    out: &mut impl io::Write,
) -> Result<ExitCode, Failure> {
    let ledger = Engine::new(config.clone()).ledger();
    match arguments.command {
        Command::Show { filter, json } => show(&ledger, &filter.into(), json, out)?,
        Command::Tail { lines, follow, timeout, filter, json } => {
            let wait = if follow {
                timeout.map_or(Duration::MAX, Duration::from_secs)
            } else {
                Duration::ZERO
            };
            tail(&ledger, lines, &filter.into(), wait, json, out)?;
        }
        Command::Verify { json } => {
            let report = ledger.verify().map_err(Failure::new)?;
            if json {
                serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                say(&report, &config.ledger_path.display().to_string(), out)?;
            }
            if !report.is_sound() {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(
    ledger: &Ledger,
    filter: &Filter,
    json: bool,
    out: &mut impl io::Write,
) -> Result<(), Failure> {
    let mut table = table::new(&[
        "SEQ",
        "TIME (UTC)",
        "ACTOR",
        "ACTION",
        "CONTAINER",
        "NETWORK",
        "INTERFACE",
        "BRIDGE",
        "PORT",
        "VLAN",
        "MAC",
        "ADDRESSES",
        "NOTE",
    ]);
    let mut empty = true;
    for entry in ledger.read().map_err(Failure::new)? {
        let entry = entry.map_err(Failure::new)?;
        if !shown(&entry, filter) {
            continue;
        }
        empty = false;
        if json {
            raw(&entry, out)?;
        } else {
            table.add_row(cells(&entry));
        }
    }
    if json {
        return Ok(());
    }
    if empty {
        writeln!(out, "The ledger has no such line.")?;
    } else {
        for row in table.lines() {
            writeln!(out, "{}", row.trim_end())?;
        }
    }
    Ok(())
}

fn tail(
    ledger: &Ledger,
    lines: usize,
    filter: &Filter,
    wait: Duration,
    json: bool,
    out: &mut impl io::Write,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let (mut entries, mut follower) = ledger.tail(lines, filter).map_err(Failure::new)?;
    loop {
        for entry in entries.iter().filter(|entry| shown(entry, filter)) {
            if json {
                raw(entry, out)?;
            } else {
                writeln!(out, "{}", sentence(entry))?;
            }
        }
        let left = wait.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        out.flush()?;
        thread::sleep(POLL.min(left));
        entries = follower.poll().map_err(Failure::new)?;
    }
}

/// A damaged line is always shown: nobody knows what it was.
fn shown(entry: &Entry, filter: &Filter) -> bool {
    entry.line.as_ref().map_or(true, |line| filter.admits(line))
}

/// The line's own bytes, which are printable ASCII unless it is damaged.
fn raw(entry: &Entry, out: &mut impl io::Write) -> io::Result<()> {
    match &entry.line {
        Ok(_) => {
            out.write_all(&entry.bytes)?;
            out.write_all(b"\n")
        }
        Err(damage) => {
            tracing::warn!("a damaged line is left out: it {}", chain(damage));
            Ok(())
        }
    }
}

fn cells(entry: &Entry) -> Vec<String> {
    let line = match &entry.line {
        Ok(line) => line,
        Err(damage) => {
            let mut cells = vec!["-".to_owned(); 12];
            "DAMAGED".clone_into(&mut cells[3]);
            cells.push(printable(&format!("line {}", chain(damage))));
            return cells;
        }
    };
    let event = &line.event;
    let field = |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
    vec![
        line.seq.to_string(),
        second(line),
        printable(&event.actor),
        event.action.as_str().to_owned(),
        event.container.as_deref().map_or_else(|| "-".to_owned(), container),
        field(&event.network),
        field(&event.ifname),
        field(&event.bridge),
        field(&event.port),
        field(&event.vlan),
        field(&event.mac),
        if event.addresses.is_empty() { "-".to_owned() } else { addresses(line) },
        note(line),
    ]
}

fn sentence(entry: &Entry) -> String {
    let line = match &entry.line {
        Ok(line) => line,
        Err(damage) => return printable(&format!("DAMAGED: the line {}", chain(damage))),
    };
    let event = &line.event;
    let (time, action) = (second(line), event.action.as_str());
    let mut text =
        format!("{:>6}  {time}  {:<10}  {action:<11}", line.seq, printable(&event.actor));
    let mut add = |word: &str, value: &str| {
        if !value.is_empty() {
            text.extend(["  ", word, value]);
        }
    };
    let field = |text: &Option<String>| text.as_deref().map(printable).unwrap_or_default();
    add("", &event.container.as_deref().map(container).unwrap_or_default());
    add("", &field(&event.ifname));
    add("network ", &field(&event.network));
    add("bridge ", &field(&event.bridge));
    add("port ", &field(&event.port));
    add("vlan ", &field(&event.vlan));
    add("", &field(&event.mac));
    add("", &addresses(line));
    add("", &note(line));
    text.trim_end().to_owned()
}

/// `2026-11-23 20:38:14`
fn second(line: &Line) -> String {
    line.time.to_string().chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

fn addresses(line: &Line) -> String {
    let texts: Vec<_> = line.event.addresses.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

fn note(line: &Line) -> String {
    let late = if line.spooled { "(written late)" } else { "" };
    let note = line.event.note.as_deref().map(printable).unwrap_or_default();
    format!("{note} {late}").trim().to_owned()
}

fn many(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn say(report: &Report, path: &str, out: &mut impl io::Write) -> io::Result<()> {
    let Report { lines, files, breaks, torn, set_aside, spooled, .. } = report;
    match (report.first, report.last) {
        (Some(first), Some(last)) => {
            let (lines, files) = (many(*lines, "line"), many(*files as u64, "file"));
            writeln!(out, "{path}: {lines} in {files}, {first} to {last}")?;
        }
        _ => writeln!(out, "{path}: no lines")?,
    }
    if *spooled > 0 {
        let late = many(*spooled, "line");
        writeln!(out, "{late} in the spool, to be moved here by the next act or the agent")?;
    }
    if *set_aside > 0 {
        writeln!(out, "{set_aside} bytes of unfinished lines were set aside in {path}.torn")?;
    }
    if *torn > 0 {
        writeln!(
            out,
            "TORN: the last {torn} bytes are an unfinished line; the next act sets them aside"
        )?;
    }
    if let Some(Break { file, line, expected, found }) = &report.first_break {
        writeln!(out, "BROKEN: {} line {line}", file.display())?;
        writeln!(out, "  expected: {}", printable(expected))?;
        writeln!(out, "  found:    {}", printable(found))?;
        if *breaks > 1 {
            writeln!(out, "  and {} more places", breaks - 1)?;
        }
    }
    if report.is_sound() {
        writeln!(out, "The chain holds.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;
    use shared::ledger::{Event, Written};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        ledger: LedgerArgs,
    }

    struct Host {
        _dir: tempfile::TempDir,
        config: Config,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let mut config =
                Config::parse("", Path::new("config.toml"), Path::new("/none")).unwrap();
            config.ledger_path = dir.path().join("ledger.jsonl");
            config.state_dir = dir.path().join("run");
            Self { _dir: dir, config }
        }

        fn write(&self, event: &Event) {
            let ledger = Engine::new(self.config.clone()).ledger();
            assert_eq!(ledger.append(event).unwrap(), Written::Ledger);
        }

        fn run(&self, words: &str) -> (ExitCode, String) {
            let cli = Cli::try_parse_from(["ledger"].into_iter().chain(words.split(' '))).unwrap();
            let mut out = Vec::new();
            let code = run(&self.config, cli.ledger, &mut out).unwrap();
            (code, String::from_utf8(out).unwrap())
        }
    }

    fn attach(container: &str) -> Event {
        Event {
            container: Some(container.to_owned()),
            network: Some("lan".to_owned()),
            ifname: Some("eth0".to_owned()),
            bridge: Some("ovsbr1".to_owned()),
            addresses: vec!["10.200.0.2/24".parse().unwrap()],
            ..Event::new("cni", Action::Attach)
        }
    }

    #[test]
    fn show_is_a_table_with_the_newest_last() {
        let host = Host::new();
        assert_eq!(host.run("show").1, "The ledger has no such line.\n");
        host.write(&attach("web"));
        host.write(&attach(&"0123456789abcdef".repeat(4)));
        let (code, text) = host.run("show");
        assert_eq!(code, ExitCode::SUCCESS);
        let rows: Vec<Vec<&str>> =
            text.lines().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0][..2], ["SEQ", "TIME"]);
        assert_eq!(rows[1][3..5], ["cni", "boot"]);
        assert_eq!(rows[2][3..9], ["cni", "attach", "web", "lan", "eth0", "ovsbr1"]);
        assert_eq!(rows[3][5], "0123456789ab");
        assert_eq!(rows[3][12], "10.200.0.2/24");
        assert_eq!(host.run("show --container we").1.lines().count(), 2);
        assert_eq!(host.run("show --until 1h").1, "The ledger has no such line.\n");
    }

    #[test]
    fn json_is_the_ledger_itself() {
        let host = Host::new();
        host.write(&attach("web"));
        let file = fs::read_to_string(&host.config.ledger_path).unwrap();
        assert_eq!(host.run("show --json").1, file);
        assert_eq!(host.run("tail --json").1, file);
        assert_eq!(host.run("tail -n 1 --json").1, file.lines().last().unwrap().to_owned() + "\n");
    }

    #[test]
    fn hostile_names_steer_no_terminal() {
        let host = Host::new();
        let hostile = "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\r\nb";
        let note = Some(hostile.to_owned());
        let actor = hostile.to_owned();
        host.write(&Event { note, actor, port: Some(hostile.to_owned()), ..attach(hostile) });
        for words in ["show", "tail", "show --json", "tail --json"] {
            let text = host.run(words).1;
            let lines = if words == "show" { 3 } else { 2 };
            assert_eq!(text.lines().count(), lines, "{words}: {text:?}");
            assert!(text.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{text:?}");
        }
    }

    #[test]
    fn tail_follows() {
        let host = Host::new();
        host.write(&attach("before"));
        let text = thread::scope(|scope| {
            let shown = scope.spawn(|| host.run("tail -n 1 --follow --timeout 2 --network lan").1);
            thread::sleep(POLL * 2);
            host.write(&attach("after"));
            host.write(&Event { network: None, ..attach("elsewhere") });
            shown.join().unwrap()
        });
        let containers: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(5)).collect();
        assert_eq!(containers, [Some("before"), Some("after")], "{text}");
    }

    #[test]
    fn verify_says_where_and_fails() {
        let host = Host::new();
        for container in ["a", "b", "c"] {
            host.write(&attach(container));
        }
        let (code, text) = host.run("verify");
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(text.contains("4 lines in 1 file, 1 to 4") && text.ends_with("The chain holds.\n"));
        let file = fs::read_to_string(&host.config.ledger_path).unwrap();
        fs::write(&host.config.ledger_path, file.replace("\"a\"", "\"x\"")).unwrap();
        let (code, text) = host.run("verify");
        assert_eq!(code, ExitCode::FAILURE);
        assert!(
            text.contains("ledger.jsonl line 2\n") && !text.contains("The chain holds"),
            "{text}"
        );
        let (code, json) = host.run("verify --json");
        assert_eq!(code, ExitCode::FAILURE);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&report["breaks"], &report["first_break"]["line"]), (&1.into(), &2.into()));
        assert!(host.run("show --network lan").1.contains("DAMAGED"));
        fs::write(&host.config.ledger_path, &file[..file.len() - 1]).unwrap();
        let (code, text) = host.run("verify");
        assert_eq!(code, ExitCode::FAILURE);
        assert!(text.contains("TORN"), "{text}");
    }

    #[test]
    fn bad_words_are_refused() {
        for words in [
            "show --action fly",
            "show --since yesterday",
            "tail --timeout 3",
            "tail -n -1",
            "verify --since 1h",
        ] {
            let words = ["ledger"].into_iter().chain(words.split(' '));
            assert!(Cli::try_parse_from(words).is_err());
        }
    }
}
