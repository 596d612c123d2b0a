//! How a method's name, parameters and reply belong together.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A method: its parameters are the type's fields.
pub trait Method: Serialize + DeserializeOwned {
    /// The full name, interface included.
    const NAME: &'static str;
    /// What a successful call answers.
    type Reply: Serialize + DeserializeOwned;
}

/// A Varlink interface: a closed set of methods, as one enum of calls.
pub trait Interface: Sized {
    /// The interface's name.
    const NAME: &'static str;
    /// The interface in Varlink's interface definition language.
    const DESCRIPTION: &'static str;
    /// Every method's full name.
    const METHODS: &'static [&'static str];

    /// The call of `method` with `parameters`; `None` where the interface has no such method.
    fn parse(method: &str, parameters: Value) -> Option<serde_json::Result<Self>>;

    /// The full name of the method that this calls.
    fn method(&self) -> &'static str;
}

/// Parameters or a reply without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Ties an interface's methods to their replies and makes the enum of its calls.
macro_rules! interface {
    ($(#[$doc:meta])* $calls:ident: $name:literal, $file:literal, { $($method:ident -> $reply:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[allow(clippy::large_enum_variant, reason = "a call is made once and matched at once")]
        pub enum $calls {
            $(#[doc = concat!("A call of `", stringify!($method), "`.")] $method($method)),*
        }

        impl $crate::control::Interface for $calls {
            const NAME: &'static str = $name;
            const DESCRIPTION: &'static str = include_str!($file);
            const METHODS: &'static [&'static str] = &[$(<$method as $crate::control::Method>::NAME),*];

            fn parse(method: &str, parameters: serde_json::Value) -> Option<serde_json::Result<Self>> {
                match method {
                    $(<$method as $crate::control::Method>::NAME => {
                        Some(serde_json::from_value(parameters).map(Self::$method))
                    })*
                    _ => None,
                }
            }

            fn method(&self) -> &'static str {
                match self {
                    $(Self::$method(_) => <$method as $crate::control::Method>::NAME),*
                }
            }
        }

        $(impl $crate::control::Method for $method {
            const NAME: &'static str = concat!($name, ".", stringify!($method));
            type Reply = $reply;
        })*
    };
}
pub(super) use interface;
