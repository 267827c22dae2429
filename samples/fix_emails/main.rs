//! The processor with the command line of `temporal-batch` around it; see the README.
mod fix_emails;
mod users;

use std::{env, path::Path, process::ExitCode};

use fix_emails::FixEmails;
use temporal_batch::{PageError, cli::App};

fn main() -> ExitCode {
    App::new("fix-emails")
        .about("Fixes the e-mail addresses of a table of users")
        .processor(processor)
        .main()
}

/// Works on the database named by `USERS_DB`, or else on `users.db`, which is created if necessary.
/// `FIX_EMAILS_LENIENT` deploys the repaired code.
async fn processor() -> Result<FixEmails, PageError> {
    let path = env::var_os("USERS_DB").unwrap_or_else(|| "users.db".into());
    let lenient = env::var_os("FIX_EMAILS_LENIENT").is_some();
    FixEmails::new(users::open(Path::new(&path)).await?, lenient).await
}
