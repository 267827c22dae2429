//! One Temporal dev server for each test process, which ends with it.

use std::sync::OnceLock;

use temporal_batch::dev_server::DevServerOptions;

/// The address of the server.
pub fn server_address() -> &'static str {
    static ADDRESS: OnceLock<String> = OnceLock::new();
    ADDRESS.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::channel();
        // A test's own tokio runtime ends with it, and some tests have none. The server needs a runtime that stays.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async move {
                let server = DevServerOptions::new().start().await.unwrap();
                sender.send(server.address()).unwrap();
                std::future::pending::<()>().await;
                drop(server);
            });
        });
        receiver.recv().expect("the dev server starts")
    })
}
