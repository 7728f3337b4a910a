//! What the processor can do, and functions compiled once for each of it.

/// Whether products of brain floats have instructions of their own here.
#[must_use]
pub fn has_bf16_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16") && has_wide_vectors()
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The kind of processor, as far as results differ in their last bits from kind to kind.
#[must_use]
pub fn kind() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        match (has_bf16_dot(), has_wide_vectors(), is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            (true, ..) => "avx512-bf16",
            (_, true, _) => "avx512",
            (.., true) => "avx2",
            _ => "x86",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH
}

/// AVX-512 as far as the kernels use it.
#[must_use]
pub(super) fn has_wide_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `a × b + c`, in one rounding where the processor has that and in two where it would be a function call.
#[inline(always)]
pub(super) fn fused<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Makes a function that exists in versions for AVX-512, AVX2 and any processor, and calls the best one that runs here. The body may use
/// the constant `FUSED`: whether [`fused`] has an instruction of its own.
macro_rules! versions {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "a kernel is told everything")]
        $visible fn $name($($argument: $kind),*) $(-> $result)? {
            #[allow(dead_code, clippy::too_many_arguments, reason = "not every body multiplies")]
            #[inline(always)]
            fn any<const FUSED: bool>($($argument: $kind),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "a kernel is told everything")]
                fn wide($($argument: $kind),*) $(-> $result)? {
                    any::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "a kernel is told everything")]
                fn middle($($argument: $kind),*) $(-> $result)? {
                    any::<true>($($argument),*)
                }
                if $crate::kernels::cpu::has_wide_vectors() {
                    // SAFETY: the processor has just been asked for these features.
                    return unsafe { wide($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has just been asked for these features.
                    return unsafe { middle($($argument),*) };
                }
            }
            any::<{ cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}
pub(super) use versions;
