//! GEMM: f32 matrix products with any row and column strides, and linear layers with their gradients.

use super::{cpu, gemv, packed_gemm, parallel};

/// A strided view of a matrix in a slice.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    /// The slice, starting at the first element.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Distance from one row to the next.
    pub row_stride: usize,
    /// Distance from one column to the next.
    pub column_stride: usize,
}

impl<'a> MatrixView<'a> {
    /// View of a contiguous row-major matrix.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Transposed view.
    #[must_use]
    pub fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    /// View of `count` rows from `start` on.
    #[must_use]
    fn rows(self, start: usize, count: usize) -> Self {
        Self { data: self.data.get(start * self.row_stride..).unwrap_or_default(), rows: count, ..self }
    }

    /// Values of row `i`; columns must be contiguous.
    pub(super) fn row(self, i: usize) -> &'a [f32] {
        self.data.get(i * self.row_stride..i * self.row_stride + self.columns).unwrap_or_default()
    }

    /// Whether the last element is within the slice.
    fn fits(&self) -> bool {
        self.rows == 0 || self.columns == 0 || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// GEMM: writes scale · a b to the rows of `y`, which are `stride` apart, or adds it to them.
///
/// # Panics
/// If the shapes do not match each other or their slices; `ops` checks them before.
pub fn multiply(y: &mut [f32], stride: usize, add: bool, a: MatrixView, b: MatrixView, scale: f32) {
    let (rows, columns, depth) = (a.rows, b.columns, a.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    let room = columns <= stride && (rows - 1) * stride + columns <= y.len();
    assert!(a.fits() && b.fits() && b.rows == depth && room, "shapes of a product: {rows} × {depth} by {} × {columns}", b.rows);
    let [y_stride, a_row, a_column, b_row, b_column] =
        [stride, a.row_stride, a.column_stride, b.row_stride, b.column_stride].map(|stride| stride as isize);
    // SAFETY: all three matrices lie within their slices, as just asserted, and `y` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            y.as_mut_ptr(),
            1,
            y_stride,
            add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows of a product per task: enough that packing the other matrix again for each task costs little.
const ROWS: usize = 512;

/// `y = a b` or `y += a b`, parallel over rows.
fn multiply_by_rows(y: &mut [f32], add: bool, a: MatrixView, b: MatrixView) {
    let width = b.columns;
    if width == 0 {
        return;
    }
    // Rows are computed independently, so the split does not change results: even parts, and no more than there are threads.
    let parts =
        if parallel::is_worth(a.rows * width * a.columns) { rayon::current_num_threads().min(a.rows.div_ceil(ROWS / 4)) } else { 1 };
    let rows = a.rows.div_ceil(parts.max(1)).max(1).next_multiple_of(48).min(a.rows.max(1));
    parallel::each(a.rows * width * a.columns, y.chunks_mut(rows * width).enumerate(), |(part, y)| {
        let rows_here = y.len() / width;
        multiply(y, width, add, a.rows(part * rows, rows_here), b, 1.0);
    });
}

/// Linear layer: y = x wᵀ + b; an empty `bias` means none.
///
/// # Shapes
/// x `[rows, inputs]`, weight `[outputs, inputs]`, bias `[outputs]` → `[rows, outputs]`
#[must_use]
pub fn linear(x: &[f32], weight: &[f32], bias: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    if rows <= gemv::MAX_SKINNY_ROWS {
        return gemv::linear(x, weight, bias, inputs, outputs);
    }
    if cpu::has_avx512() {
        return packed_gemm::linear(x, weight, bias, inputs, outputs);
    }
    let mut y = with_bias(rows, outputs, bias);
    let weight = MatrixView::new(weight, outputs, inputs);
    multiply_by_rows(&mut y, !bias.is_empty(), MatrixView::new(x, rows, inputs), weight.transposed());
    y
}

/// Gradient of x: g w.
///
/// # Shapes
/// gradient `[rows, outputs]`, weight `[outputs, inputs]` → `[rows, inputs]`
#[must_use]
pub fn linear_input_gradient(gradient: &[f32], weight: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = gradient.len().checked_div(outputs).unwrap_or(0);
    let mut dx = vec![0.0; rows * inputs];
    multiply_by_rows(&mut dx, false, MatrixView::new(gradient, rows, outputs), MatrixView::new(weight, outputs, inputs));
    dx
}

/// Gradient of the weight: gᵀ x.
///
/// # Shapes
/// gradient `[rows, outputs]`, x `[rows, inputs]` → `[outputs, inputs]`
#[must_use]
pub fn linear_weight_gradient(gradient: &[f32], x: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    let rows = x.len().checked_div(inputs).unwrap_or(0);
    let mut dw = vec![0.0; outputs * inputs];
    multiply_by_rows(&mut dw, false, MatrixView::new(gradient, rows, outputs).transposed(), MatrixView::new(x, rows, inputs));
    dw
}

/// Gradient of the bias: the sum of the rows.
#[must_use]
pub fn column_sums(gradient: &[f32], outputs: usize) -> Vec<f32> {
    let mut sums = vec![0.0; outputs];
    for row in gradient.chunks_exact(outputs.max(1)) {
        super::softmax::add_scaled(&mut sums, row, 1.0);
    }
    sums
}

/// Rows initialized with the bias, or with zeros if there is none.
pub(super) fn with_bias(rows: usize, outputs: usize, bias: &[f32]) -> Vec<f32> {
    if bias.is_empty() {
        return super::buffer::room(rows * outputs);
    }
    assert_eq!(bias.len(), outputs);
    let mut y = Vec::with_capacity(rows * outputs);
    for _ in 0..rows {
        y.extend_from_slice(bias);
    }
    y
}
