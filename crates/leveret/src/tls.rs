//! TLS: rustls with *ring*, for every connection of the process.

/// Makes *ring* the process's provider of cryptography, unless the application chose another before.
pub(crate) fn install_provider() {
    // An error only says that a provider is installed already, which is what we want.
    drop(rustls::crypto::ring::default_provider().install_default());
}
