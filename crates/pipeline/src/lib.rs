//! Typed steps per page or per item, in one processor.
