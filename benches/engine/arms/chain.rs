//! No-op pages of opaque tokens: each page has to be read before the next one is known.

use super::noop::{RATIO, beside};
use crate::{
    Error,
    arm_server::ArmServer,
    bare::Peer,
    options::Options,
    pages::PagesArgs,
    report::{Table, Target},
};

pub async fn run(server: &ArmServer, options: &Options, table: &mut Table) -> Result<(), Error> {
    let args = PagesArgs {
        pages: options.size(100, 300),
        ..PagesArgs::default()
    };
    let case = format!("{} pages, parallelism 10", args.pages);
    beside(server, options, table, &case, &args, 10, Peer::Chain).await?;
    table.aim(&case, RATIO, Target::AtLeast(0.9));
    Ok(())
}
