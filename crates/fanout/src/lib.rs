//! One child workflow per item.
