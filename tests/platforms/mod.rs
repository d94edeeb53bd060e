//! One test for each platform.

/// A list of tests, each over all platforms, from functions that are generic over the platform.
macro_rules! on_all_platforms {
    ($($test:ident)*) => {
        vec![$(
            (concat!("forked::", stringify!($test)), $test::<manycore::Forked> as fn()),
            (concat!("execed::", stringify!($test)), $test::<manycore::Execed> as fn()),
            (concat!("threaded::", stringify!($test)), $test::<manycore::Threaded> as fn()),
        )*]
    };
}

pub(crate) use on_all_platforms;
