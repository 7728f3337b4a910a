//! What `cubecl-cuda` names of `cubecl-llvm`, with no LLVM behind it: kernels then go through C++ and NVRTC (its feature `cpp`), and a
//! build needs neither a download nor a CUDA toolkit. A program built so asks for NVRTC and CUDA's headers (`CUDA_PATH`) when it runs.

use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_environment::backtrace::BackTrace;
use cubecl_server::compiler::{CompilationError, Compiler};
use cubecl_server::kernel::BufferIOAttr;
use std::ffi::c_char;
use std::fmt;

/// Versions of PTX, of which there is none here.
pub mod nvptx {
    /// Versions by driver.
    pub mod ptx_version {
        use std::fmt;

        /// A version.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);

        impl PtxVersion {
            /// The newest one a driver understands.
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "ptx{}", self.0)
            }
        }
    }
}

/// What targets have in common.
pub mod shared {
    /// What a target cannot do.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// Kinds of cards.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
            /// AMD's.
            AmdGpu,
        }

        /// C++ can do everything the properties say.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// The processor.
    #[default]
    Cpu,
    /// AMD's cards.
    AmdGpu,
    /// NVIDIA's cards.
    Nvptx,
}

/// A compiler that refuses.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

/// Its options.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// The architecture's number.
    pub arch: Option<u32>,
    /// NVIDIA's name for it.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether constants are shared by a grid.
    pub grid_constants: bool,
    /// Further options, of which there are none.
    pub other: (),
}

/// A compiled kernel.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// Its code.
    pub ptx: Vec<c_char>,
    /// Where it begins.
    pub entrypoint: String,
    /// What the code was made from.
    pub ir: String,
    /// Bytes of shared memory.
    pub shared_memory_size: usize,
    /// What happens to its buffers.
    pub io: Vec<BufferIOAttr>,
}

/// What a compiler makes.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// Code for the processor.
    Jit(()),
    /// Code for NVIDIA's cards.
    NvptxCode(NvptxModule),
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn buffer_io(_: &Self::Representation) -> Option<Vec<BufferIOAttr>> {
        None
    }

    fn compile(&mut self, _: KernelDefinition, _: &Self::CompilationOptions) -> Result<Self::Representation, CompilationError> {
        let reason = "this program was built without LLVM; kernels go through NVRTC".into();
        Err(CompilationError::Validation { reason, backtrace: BackTrace::capture() })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NvptxCode(module) => f.write_str(&module.ir),
            Self::Jit(()) => Ok(()),
        }
    }
}
