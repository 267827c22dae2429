//! Opens connections to a Temporal server.
//!
//! The SDK's client of every call of the Temporal API is compiled in the crate that polls the future of a connection.
//! These functions poll it here, so that neither `temporal-batch` nor a program of its users compiles that code again.
//! The client makes up a quarter of the code that the engine would otherwise compile.

use futures::future::BoxFuture;
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, errors::ClientConnectError,
};

/// Connects to a server. Returns a client of a namespace.
pub fn client(
    connection: ConnectionOptions,
    client: ClientOptions,
) -> BoxFuture<'static, Result<Client, ClientConnectError>> {
    Box::pin(Client::connect(connection, client))
}

/// Connects to a server.
pub fn connection(
    options: ConnectionOptions,
) -> BoxFuture<'static, Result<Connection, ClientConnectError>> {
    Box::pin(Connection::connect(options))
}
