//! Traffic as an MX host sees it: most recipients do not exist.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{Client, Options, wire};

/// One message in so many is for a recipient that exists.
const ONE_IN: u64 = 20;

/// Transactions on a connection each; all but one in twenty are refused at RCPT.
pub(crate) async fn mix(options: Rc<Options>) -> Result<()> {
    let count = options.number("count", 100_000)?;
    let connections = options.number("connections", 50)?;
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for first in 0..connections {
        let options = Rc::clone(&options);
        clients.spawn_local(async move {
            for number in (first..count).step_by(usize::try_from(connections)?) {
                transaction(&options, number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    println!("{}", json!({ "count": count, "seconds": start.elapsed().as_secs_f64() }));
    Ok(())
}

async fn transaction(options: &Options, number: u64) -> Result<()> {
    let octets = usize::try_from(options.number("octets", 4096)?)?;
    let mut client = Client::connect(options.text("server")?).await?;
    client.command(b"MAIL FROM:<s@load.test>\r\n", b'2').await?;
    if number.is_multiple_of(ONE_IN) {
        let rcpt = format!("RCPT TO:<{}>\r\n", options.text("to")?);
        client.command(rcpt.as_bytes(), b'2').await?;
        client.command(b"DATA\r\n", b'3').await?;
        client.command(&wire(number, octets), b'2').await?;
    } else {
        let guess = number % options.number("spread", 1000)?;
        let rcpt = format!("RCPT TO:<{}>\r\n", options.text("unknown")?);
        let rcpt = rcpt.replace("{}", &guess.to_string());
        client.command(rcpt.as_bytes(), b'5').await?;
    }
    client.command(b"QUIT\r\n", b'2').await?;
    Ok(())
}

/// Messages for many recipients each, `rate` recipients a second in all.
pub(crate) async fn dictionary(options: Rc<Options>) -> Result<()> {
    let (first, count) = (options.number("first", 0)?, options.number("count", 100_000)?);
    let (connections, each) = (options.number("connections", 10)?, options.number("each", 100)?);
    let rate = options.number("rate", 1000)?.max(1);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..connections {
        let options = Rc::clone(&options);
        clients.spawn_local(async move {
            let pause = Duration::from_secs_f64((each * connections) as f64 / rate as f64);
            let mut tick = tokio::time::interval(pause);
            let mut connection = Client::connect(options.text("server")?).await?;
            let octets = usize::try_from(options.number("octets", 600)?)?;
            let to = options.text("to")?;
            let step = usize::try_from(each * connections)?;
            for from in (client * each..count).step_by(step) {
                tick.tick().await;
                let recipients: Vec<String> = (from..(from + each).min(count))
                    .map(|number| to.replace("{}", &(first + number).to_string()))
                    .collect();
                let text = wire(from, octets);
                connection.message("s@load.test", &recipients, &text).await?;
            }
            connection.command(b"QUIT\r\n", b'2').await?;
            anyhow::Ok(())
        });
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    println!("{}", json!({ "count": count, "seconds": start.elapsed().as_secs_f64() }));
    Ok(())
}
