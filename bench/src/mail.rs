//! Mail, measured from outside: durable accepts over HTTP, the whole loop from HTTP to SMTP to the lake, and Postfix
//! relaying the same load in the same run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;

use crate::load::Load;
use crate::postfix::{self, Postfix};
use crate::report::{Figures, Measure, Report};
use crate::server::{Server, Setup};
use crate::sink::Sink;

/// Octets of text in a message, as `smtp-source -l` counts them.
const BODY_BYTES: usize = 10_240;
/// No single measurement takes longer.
pub(crate) const MEASURE_MAX: Duration = Duration::from_secs(90);

#[derive(Args, Debug)]
pub(crate) struct MailArgs {
    /// The sendlake binary.
    #[arg(long)]
    binary: PathBuf,
    /// Where main.cf and master.cf for Postfix lie.
    #[arg(long)]
    postfix_config: PathBuf,
    /// Folder for the runs, emptied first; on the disk that is to be measured.
    #[arg(long, default_value = "bench-data/mail")]
    dir: PathBuf,
    /// Rounds of everything; figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Messages of one pass through the whole loop, and through Postfix.
    #[arg(long, default_value_t = 10_000)]
    messages: usize,
    /// HTTP connections that post at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// SMTP sessions at once: sendlake's to the sink, and smtp-source's to Postfix.
    #[arg(long, default_value_t = 20)]
    sessions: usize,
    /// How long accepting is measured, in seconds.
    #[arg(long, default_value_t = 5)]
    accept_s: u64,
    /// What to measure: accepts, loop, loop-dkim, postfix; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Where the figures go, as JSON; <dir>/bench.json by default.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[expect(clippy::print_stderr, reason = "progress, beside the table on standard output")]
pub(crate) async fn run(args: MailArgs) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.messages > 0, "--rounds and --messages must be at least 1");
    crate::make_anew(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let mut report = Report::new(&args.binary, args.rounds, args.messages, BODY_BYTES);
    for round in 1..=args.rounds {
        for measure in Measure::ALL {
            if !args.only.is_empty() && !args.only.contains(&measure) {
                continue;
            }
            let run_dir = dir.join(format!("{}-{round}", measure.name()));
            std::fs::create_dir(&run_dir)?;
            let result = match measure {
                Measure::Accepts => Some(accepts(&args, &run_dir).await?),
                Measure::Loop => Some(whole_loop(&args, &run_dir, false).await?),
                Measure::LoopDkim => Some(whole_loop(&args, &run_dir, true).await?),
                Measure::Postfix => relay(&args, &run_dir).await?,
            };
            match result {
                Some(result) => {
                    eprintln!("round {round}: {}: {:.0} messages/s", measure.title(), result.per_s);
                    report.add(measure, result);
                }
                None => report.skip(measure, "Postfix with smtp-source and smtp-sink is not installed"),
            }
            // a run's files are of no use to the next one, and its dirty pages would be its burden
            std::fs::remove_dir_all(&run_dir)?;
            rustix::fs::sync();
        }
    }
    let json = args.json.unwrap_or_else(|| dir.join("bench.json"));
    report.finish(&json)
}

/// Durable accepts per second; the messages are for tomorrow, so nothing else goes on.
async fn accepts(args: &MailArgs, dir: &Path) -> anyhow::Result<Figures> {
    let setup = Setup { sink: None, sessions: args.sessions, sign: true };
    let server = Server::start(&args.binary, dir, &setup).await?;
    let load = Load::new(server.http(), server.key(), BODY_BYTES, true);
    load.run_for(args.connections, Duration::from_secs(1)).await?;
    let (started, cpu_before) = (Instant::now(), server.cpu()?);
    let accepted = load.run_for(args.connections, Duration::from_secs(args.accept_s)).await?;
    let figures = Figures::of(accepted, started.elapsed(), Some(server.cpu()? - cpu_before));
    server.stop().await?;
    Ok(figures)
}

/// Messages per second from the first post until the last delivery is in the lake.
async fn whole_loop(args: &MailArgs, dir: &Path, sign: bool) -> anyhow::Result<Figures> {
    let sink = Sink::start(None).await?;
    let setup = Setup { sink: Some(sink.port()), sessions: args.sessions, sign };
    let server = Server::start(&args.binary, dir, &setup).await?;
    let load = Load::new(server.http(), server.key(), BODY_BYTES, false);
    let (started, cpu_before) = (Instant::now(), server.cpu()?);
    let (posted, in_lake) = tokio::join!(
        load.run_count(args.connections, args.messages),
        server.wait_for_lake(args.messages, MEASURE_MAX)
    );
    posted?;
    let took = in_lake?.duration_since(started);
    let figures = Figures::of(args.messages, took, Some(server.cpu()? - cpu_before));
    server.check_outcomes(args.messages).await?;
    server.stop().await?;
    sink.stop().await?;
    Ok(figures)
}

/// Messages per second from the first one offered to Postfix until the sink has the last.
async fn relay(args: &MailArgs, dir: &Path) -> anyhow::Result<Option<Figures>> {
    if !postfix::installed() {
        return Ok(None);
    }
    let sink = Sink::start(Some(args.messages)).await?;
    let postfix = Postfix::start(&args.postfix_config, dir, sink.port()).await?;
    let started = Instant::now();
    let relayed = async {
        postfix.offer(args.sessions, args.messages, BODY_BYTES).await?;
        sink.wait_full(MEASURE_MAX).await
    };
    let result = relayed.await;
    let figures = Figures::of(args.messages, started.elapsed(), None);
    postfix.stop().await?;
    result?;
    Ok(Some(figures))
}
