//! `mxfleet classify` and `mxfleet classify-dsn`: what the classifier makes of a reply or report.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};

use super::output::write_out;
use crate::smtp::Stage;
use crate::verdict::{classify_dsn, classify_text};

/// Replies to classify.
#[derive(Debug, Args)]
#[command(after_help = "A line is an SMTP reply, its line ends written as \\n, or a JSON object \
    {\"reply\": \"550 ...\", \"stage\": \"rcpt\"}")]
pub(super) struct ClassifyArgs {
    /// What the replies answer: connect, banner, helo, starttls, mail, rcpt, data, final-dot.
    #[arg(long, default_value = "rcpt")]
    stage: Stage,
    /// The file; standard input when it is `-` or absent.
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Reports to classify.
#[derive(Debug, Args)]
pub(super) struct ClassifyDsnArgs {
    /// Files with one report each.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Question {
    reply: String,
    stage: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    class: &'static str,
    why: String,
}

#[derive(Serialize)]
struct DsnAnswer<'a> {
    file: String,
    recipient: &'a str,
    class: &'static str,
    status: Option<String>,
    why: &'a str,
}

/// A JSON line for each line.
pub(super) fn classify(args: &ClassifyArgs) -> anyhow::Result<()> {
    let mut input: Box<dyn BufRead> = if args.file == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file = std::fs::File::open(&args.file);
        let file = file.with_context(|| format!("cannot read {}", args.file.display()))?;
        Box::new(BufReader::new(file))
    };
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line).into_owned();
        let (reply, stage) = read(text.trim_end_matches(['\r', '\n']), args.stage)?;
        let judgement = classify_text(stage, &reply);
        let answer = Answer { class: judgement.class.as_str(), why: judgement.why };
        write_out(&serde_json::to_string(&answer)?)?;
        line.clear();
    }
    Ok(())
}

fn read(line: &str, default: Stage) -> anyhow::Result<(String, Stage)> {
    if !line.trim_start().starts_with('{') {
        return Ok((line.to_owned(), default));
    }
    let question: Question = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let stage = question.stage.map(|stage| stage.to_ascii_lowercase().parse()).transpose()?;
    Ok((question.reply, stage.unwrap_or(default)))
}

/// A JSON line for each recipient in each file.
pub(super) fn dsn(args: &ClassifyDsnArgs) -> anyhow::Result<()> {
    for file in &args.files {
        let octets =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        for found in classify_dsn(&octets) {
            let answer = DsnAnswer {
                file: file.display().to_string(),
                recipient: &found.recipient,
                class: found.class.as_str(),
                status: found.status.map(|status| status.to_string()),
                why: &found.why,
            };
            write_out(&serde_json::to_string(&answer)?)?;
        }
    }
    Ok(())
}
