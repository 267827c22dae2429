//! `call --dry-run` and `call --try`: the first requests, without a batch.

use crate::{
    cli::{
        exit::{CliError, CliResult, Exit},
        output::{one_line, result},
    },
    http::{CallArgs, HttpCall, call::plan::Plan},
    page::range::PageRange,
};

/// The number of requests that a dry run shows.
const SHOWN: usize = 3;

/// Prints the first requests, and sends the first `send` of them. Secrets are shown by their names.
pub(super) async fn run(
    call: &HttpCall,
    args: &CallArgs,
    plan: &Plan,
    send: Option<usize>,
) -> CliResult {
    let most = send.unwrap_or(SHOWN);
    let page = call.page(args, &PageRange::new(None, None), most).await;
    let page = page.map_err(|error| CliError::refused(&error))?;
    let client = call
        .client(args)
        .map_err(|error| CliError::refused(&error))?;
    let secret = |name: &str| call.secret(name);
    let mut failed = 0;
    for (at, item) in page.items().iter().enumerate() {
        let number = at + 1;
        let prepared = item.fields().and_then(|fields| {
            let key = "<one for each record>";
            let shown = plan.shown(fields, key).map_err(|e| e.to_string())?;
            let request = plan.request(fields, &secret).map_err(|e| e.to_string())?;
            Ok((fields, shown, request))
        });
        let (fields, shown, request) = match prepared {
            Ok(prepared) => prepared,
            Err(why) => {
                failed += 1;
                result(format_args!(
                    "record {number} would fail: {}\n",
                    one_line(&why)
                ));
                continue;
            }
        };
        result(format_args!("record {number}:\n{shown}"));
        if send.is_none() {
            continue;
        }
        let key = format!("try-{}", uuid::Uuid::new_v4());
        match client.try_once(&request.key(key)).await {
            Ok(answer) => {
                let status = answer.status();
                match call.shown_line(args, plan, fields, &answer).await {
                    Ok(line) => result(format_args!("{status} -> {line}\n")),
                    Err(why) => {
                        failed += 1;
                        result(format_args!("{status}: {}\n", one_line(&why)))
                    }
                };
            }
            Err(failure) => {
                failed += 1;
                let body = one_line(failure.body_start());
                result(format_args!("{} {body}\n", failure.error().message()));
            }
        }
    }
    if page.items().is_empty() {
        result("there are no records");
    }
    Ok(match failed {
        0 => Exit::Done,
        _ => Exit::WithFailures,
    })
}
