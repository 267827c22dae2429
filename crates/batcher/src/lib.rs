//! Many requests, one write.
