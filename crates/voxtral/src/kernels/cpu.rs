//! CPU feature detection, and function multiversioning: functions compiled once per instruction set.

/// Whether the CPU has bf16 dot products (AVX-512 BF16).
#[must_use]
pub fn has_bf16_dot() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16") && has_avx512()
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Name of the instruction set level in use. Results can differ in their last bits between levels.
#[must_use]
pub fn kind() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        match (has_bf16_dot(), has_avx512(), is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")) {
            (true, ..) => "avx512-bf16",
            (_, true, _) => "avx512",
            (.., true) => "avx2",
            _ => "x86",
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH
}

/// Whether the CPU has the AVX-512 extensions the kernels use.
#[must_use]
pub(super) fn has_avx512() -> bool {
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

/// `a × b + c`, with one rounding where the CPU has FMA, and with two where FMA would be a function call.
#[inline(always)]
pub(super) fn fused<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Defines a function compiled for AVX-512, for AVX2 and for any CPU, which calls the best version at run time. The body may use the
/// constant `FUSED`: whether [`fused`] is a single instruction.
macro_rules! versions {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments, reason = "kernels take many arguments")]
        $visible fn $name($($argument: $kind),*) $(-> $result)? {
            #[allow(dead_code, clippy::too_many_arguments, reason = "not every body multiplies")]
            #[inline(always)]
            fn any<const FUSED: bool>($($argument: $kind),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "kernels take many arguments")]
                fn avx512($($argument: $kind),*) $(-> $result)? {
                    any::<true>($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "kernels take many arguments")]
                fn avx2($($argument: $kind),*) $(-> $result)? {
                    any::<true>($($argument),*)
                }
                if $crate::kernels::cpu::has_avx512() {
                    // SAFETY: these CPU features have just been detected.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: these CPU features have just been detected.
                    return unsafe { avx2($($argument),*) };
                }
            }
            any::<{ cfg!(target_arch = "aarch64") }>($($argument),*)
        }
    };
}
pub(super) use versions;
