---@meta

-- Tensors: numbers in up to eight dimensions, float32, int32 or int64, which count from 0.
-- See the pages "Indexing" and "Lifetimes".

---@class perilune
local pl = {}

--- A tensor of a number or of nested tables.
---@param values number|table
---@param opts? {dtype?: "float32"|"int32"|"int64"} float32 unless said otherwise
---@return perilune.Tensor
function pl.tensor(values, opts) end

--- Zeros: pl.zeros(2, 3) or pl.zeros({2, 3}, {dtype = "int64"}).
---@param ... any sizes, then options: dtype
---@return perilune.Tensor
function pl.zeros(...) end

--- Ones, as pl.zeros.
---@param ... any sizes, then options: dtype
---@return perilune.Tensor
function pl.ones(...) end

---@param shape integer[]
---@param value number
---@param opts? {dtype?: string}
---@return perilune.Tensor
function pl.full(shape, value, opts) end

--- The identity matrix.
---@param n integer
---@return perilune.Tensor float32 [n, n]
function pl.eye(n) end

--- The numbers from start (0 if not said) up to, but without, stop. Whole numbers make int64.
---@param start number
---@param stop? number
---@param step? number
---@return perilune.Tensor
function pl.arange(start, stop, step) end

--- n numbers at equal distances, both ends included.
---@param start number
---@param stop number
---@param n integer
---@return perilune.Tensor
function pl.linspace(start, stop, n) end

--- Uniform random numbers from 0 up to 1.
---@param ... any sizes, then options: seed
---@return perilune.Tensor
function pl.rand(...) end

--- Normally distributed random numbers, mean 0 and standard deviation 1.
---@param ... any sizes, then options: seed
---@return perilune.Tensor
function pl.randn(...) end

--- A tensor from NumPy's .npy file, float16 as float32; `Tensor:save` writes one.
---@param path string
---@return perilune.Tensor
function pl.load_npy(path) end

--- Sums of products over the indices that the result lacks: pl.einsum("ij,jk->ik", a, b).
---@param equation string
---@param ... perilune.Tensor
---@return perilune.Tensor
function pl.einsum(equation, ...) end

--- Tensors one after the other along a dimension that they have.
---@param tensors perilune.Tensor[]
---@param dim? integer|string 0 unless said otherwise
---@return perilune.Tensor
function pl.cat(tensors, dim) end

--- Tensors of one shape along a new dimension.
---@param tensors perilune.Tensor[]
---@param dim? integer 0 unless said otherwise
---@return perilune.Tensor
function pl.stack(tensors, dim) end

--- a where the condition is not 0, b elsewhere.
---@param condition perilune.Tensor
---@param a perilune.Tensor|number
---@param b perilune.Tensor|number
---@return perilune.Tensor
function pl.where(condition, a, b) end

--- The product of two matrices.
---@param a perilune.Tensor
---@param b perilune.Tensor
---@return perilune.Tensor
function pl.matmul(a, b) end

---@class perilune.Tensor
---@field shape integer[] sizes of the dimensions
---@field dtype string float32, int32, int64, ...
---@field n_dims integer
---@operator add(perilune.Tensor|number): perilune.Tensor
---@operator sub(perilune.Tensor|number): perilune.Tensor
---@operator mul(perilune.Tensor|number): perilune.Tensor
---@operator div(perilune.Tensor|number): perilune.Tensor
---@operator pow(perilune.Tensor|number): perilune.Tensor
---@operator mod(perilune.Tensor|number): perilune.Tensor
---@operator unm: perilune.Tensor
local Tensor = {}

--- Element by element: absolute value.
---@return perilune.Tensor
function Tensor:abs() end

--- As `abs`, in place.
---@return perilune.Tensor self
function Tensor:abs_() end

--- Element by element: rounded up.
---@return perilune.Tensor
function Tensor:ceil() end

--- As `ceil`, in place.
---@return perilune.Tensor self
function Tensor:ceil_() end

--- Element by element: cosine.
---@return perilune.Tensor
function Tensor:cos() end

--- As `cos`, in place.
---@return perilune.Tensor self
function Tensor:cos_() end

--- Element by element: the error function.
---@return perilune.Tensor
function Tensor:erf() end

--- As `erf`, in place.
---@return perilune.Tensor self
function Tensor:erf_() end

--- Element by element: e to the power.
---@return perilune.Tensor
function Tensor:exp() end

--- As `exp`, in place.
---@return perilune.Tensor self
function Tensor:exp_() end

--- Element by element: rounded down.
---@return perilune.Tensor
function Tensor:floor() end

--- As `floor`, in place.
---@return perilune.Tensor self
function Tensor:floor_() end

--- Element by element: x times the normal distribution function, exact.
---@return perilune.Tensor
function Tensor:gelu() end

--- As `gelu`, in place.
---@return perilune.Tensor self
function Tensor:gelu_() end

--- Element by element: 1 where it is not a number.
---@return perilune.Tensor
function Tensor:isnan() end

--- As `isnan`, in place.
---@return perilune.Tensor self
function Tensor:isnan_() end

--- Element by element: natural logarithm.
---@return perilune.Tensor
function Tensor:log() end

--- As `log`, in place.
---@return perilune.Tensor self
function Tensor:log_() end

--- Element by element: negated.
---@return perilune.Tensor
function Tensor:neg() end

--- As `neg`, in place.
---@return perilune.Tensor self
function Tensor:neg_() end

--- Element by element: 1 / x.
---@return perilune.Tensor
function Tensor:reciprocal() end

--- As `reciprocal`, in place.
---@return perilune.Tensor self
function Tensor:reciprocal_() end

--- Element by element: x where it is positive, else 0.
---@return perilune.Tensor
function Tensor:relu() end

--- As `relu`, in place.
---@return perilune.Tensor self
function Tensor:relu_() end

--- Element by element: to the nearest whole number.
---@return perilune.Tensor
function Tensor:round() end

--- As `round`, in place.
---@return perilune.Tensor self
function Tensor:round_() end

--- Element by element: 1 / sqrt(x).
---@return perilune.Tensor
function Tensor:rsqrt() end

--- As `rsqrt`, in place.
---@return perilune.Tensor self
function Tensor:rsqrt_() end

--- Element by element: 1 / (1 + exp(-x)).
---@return perilune.Tensor
function Tensor:sigmoid() end

--- As `sigmoid`, in place.
---@return perilune.Tensor self
function Tensor:sigmoid_() end

--- Element by element: -1, 0 or 1.
---@return perilune.Tensor
function Tensor:sign() end

--- As `sign`, in place.
---@return perilune.Tensor self
function Tensor:sign_() end

--- Element by element: x sigmoid(x).
---@return perilune.Tensor
function Tensor:silu() end

--- As `silu`, in place.
---@return perilune.Tensor self
function Tensor:silu_() end

--- Element by element: sine.
---@return perilune.Tensor
function Tensor:sin() end

--- As `sin`, in place.
---@return perilune.Tensor self
function Tensor:sin_() end

--- Element by element: square root.
---@return perilune.Tensor
function Tensor:sqrt() end

--- As `sqrt`, in place.
---@return perilune.Tensor self
function Tensor:sqrt_() end

--- Element by element: x x.
---@return perilune.Tensor
function Tensor:square() end

--- As `square`, in place.
---@return perilune.Tensor self
function Tensor:square_() end

--- Element by element: hyperbolic tangent.
---@return perilune.Tensor
function Tensor:tanh() end

--- As `tanh`, in place.
---@return perilune.Tensor self
function Tensor:tanh_() end

--- Element by element: sum. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:add(other) end

--- As `add`, in place.
---@param other perilune.Tensor|number
---@param opts? {alpha?: number} other is multiplied by alpha first
---@return perilune.Tensor self
function Tensor:add_(other, opts) end

--- Element by element: quotient. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:div(other) end

--- As `div`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:div_(other) end

--- Element by element: quotient rounded down, as of Lua's //. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:floor_div(other) end

--- As `floor_div`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:floor_div_(other) end

--- Element by element: the larger of two. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:maximum(other) end

--- As `maximum`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:maximum_(other) end

--- Element by element: the smaller of two. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:minimum(other) end

--- As `minimum`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:minimum_(other) end

--- Element by element: remainder, as of Lua's %. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:mod(other) end

--- As `mod`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:mod_(other) end

--- Element by element: product. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:mul(other) end

--- As `mul`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:mul_(other) end

--- Element by element: power. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:pow(other) end

--- As `pow`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:pow_(other) end

--- Element by element: difference. Shapes are broadcast.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:sub(other) end

--- As `sub`, in place.
---@param other perilune.Tensor|number
---@return perilune.Tensor self
function Tensor:sub_(other) end

--- 1 where self is equal to other, 0 elsewhere.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:eq(other) end

--- 1 where self is greater or equal to other, 0 elsewhere.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:ge(other) end

--- 1 where self is greater than other, 0 elsewhere.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:gt(other) end

--- 1 where self is less or equal to other, 0 elsewhere.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:le(other) end

--- 1 where self is less than other, 0 elsewhere.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:lt(other) end

--- 1 where self is different from other, 0 elsewhere.
---@param other perilune.Tensor|number
---@return perilune.Tensor
function Tensor:ne(other) end

--- Sum, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:sum(dim, opts) end

--- Mean, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:mean(dim, opts) end

--- Product, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:prod(dim, opts) end

--- Largest element, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:max(dim, opts) end

--- Smallest element, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:min(dim, opts) end

--- Variance, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:var(dim, opts) end

--- Standard deviation, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:std(dim, opts) end

--- Euclidean length, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:norm(dim, opts) end

--- log of the sum of exp, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:logsumexp(dim, opts) end

--- 1 if nothing is 0, else 0, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:all(dim, opts) end

--- 1 if something is not 0, else 0, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:any(dim, opts) end

--- Index of the largest element, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:argmax(dim, opts) end

--- Index of the smallest element, along a dimension.
---@param dim? integer|string over everything unless said otherwise
---@param opts? {keepdim?: boolean} the dimension stays, with size 1
---@return perilune.Tensor|number
function Tensor:argmin(dim, opts) end

--- exp(x) / sum of exp(x), along a dimension.
---@param dim? integer|string the last unless said otherwise
---@return perilune.Tensor
function Tensor:softmax(dim) end

--- log of softmax, along a dimension.
---@param dim? integer|string the last unless said otherwise
---@return perilune.Tensor
function Tensor:log_softmax(dim) end

--- Running sums, along a dimension.
---@param dim? integer|string the last unless said otherwise
---@return perilune.Tensor
function Tensor:cumsum(dim) end

--- The k largest along a dimension, the best first.
---@param k integer
---@param dim? integer|string the last unless said otherwise
---@param opts? {largest?: boolean} false: the smallest
---@return perilune.Tensor values
---@return perilune.Tensor indices int64
function Tensor:topk(k, dim, opts) end

--- In order along a dimension.
---@param dim? integer|string the last unless said otherwise
---@param opts? {descending?: boolean}
---@return perilune.Tensor values
---@return perilune.Tensor indices int64
function Tensor:sort(dim, opts) end

--- The indices that would sort it.
---@param dim? integer|string the last unless said otherwise
---@param opts? {descending?: boolean}
---@return perilune.Tensor
function Tensor:argsort(dim, opts) end

--- Elements picked by an index of the same number of dimensions.
---@param dim integer|string
---@param index perilune.Tensor
---@return perilune.Tensor
function Tensor:gather(dim, index) end

--- Slices picked by a list of indices.
---@param dim integer|string
---@param index perilune.Tensor|integer[]
---@return perilune.Tensor
function Tensor:index_select(dim, index) end

--- Fills the slices that a list names, along dimension 0 or, as index_fill_(dim, index, value), another.
---@param index perilune.Tensor|integer[]
---@param value number
---@return perilune.Tensor self
function Tensor:index_fill_(index, value) end

--- value where the mask is not 0.
---@param mask perilune.Tensor
---@param value number
---@return perilune.Tensor
function Tensor:masked_fill(mask, value) end

--- As `masked_fill`, in place.
---@param mask perilune.Tensor
---@param value number
---@return perilune.Tensor self
function Tensor:masked_fill_(mask, value) end

--- Held between two numbers; nil: no limit.
---@param least? number
---@param most? number
---@return perilune.Tensor
function Tensor:clamp(least, most) end

--- As `clamp`, in place.
---@param least? number
---@param most? number
---@return perilune.Tensor self
function Tensor:clamp_(least, most) end

--- Takes over the numbers of another tensor, broadcast to this shape.
---@param source perilune.Tensor
---@return perilune.Tensor self
function Tensor:copy_(source) end

--- Sets every element.
---@param value number
---@return perilune.Tensor self
function Tensor:fill_(value) end

--- Sets every element to 0.
---@return perilune.Tensor self
function Tensor:zero_() end

--- Uniform random numbers, in place.
---@param low? number 0
---@param high? number 1
---@param opts? {seed?: integer}
---@return perilune.Tensor self
function Tensor:uniform_(low, high, opts) end

--- Normally distributed random numbers, in place.
---@param mean? number 0
---@param std? number 1
---@param opts? {seed?: integer}
---@return perilune.Tensor self
function Tensor:normal_(mean, std, opts) end

--- A copy with memory of its own.
---@return perilune.Tensor
function Tensor:clone() end

--- A float32 copy.
---@return perilune.Tensor
function Tensor:float() end

--- As int32.
---@return perilune.Tensor
function Tensor:int() end

--- As int64.
---@return perilune.Tensor
function Tensor:long() end

--- Itself if its elements lie in order without gaps, else a copy of which that is true.
---@return perilune.Tensor
function Tensor:contiguous() end

--- The same elements in another shape; one size may be -1.
---@param ... integer|integer[]
---@return perilune.Tensor
function Tensor:view(...) end

--- `length` slices from `start` on, as a view.
---@param dim integer|string
---@param start integer
---@param length integer
---@return perilune.Tensor
function Tensor:narrow(dim, start, length) end

--- One slice, as a view without that dimension.
---@param dim integer|string
---@param index integer
---@return perilune.Tensor|number
function Tensor:select(dim, index) end

--- Two dimensions exchanged, as a view; the last two when none are named.
---@param a? integer|string
---@param b? integer|string
---@return perilune.Tensor
function Tensor:transpose(a, b) end

--- The dimensions in another order, as a view.
---@param ... integer|string
---@return perilune.Tensor
function Tensor:permute(...) end

--- Without dimensions of size 1, as a view.
---@param dim? integer|string
---@return perilune.Tensor
function Tensor:squeeze(dim) end

--- With a dimension of size 1 before dim, as a view; -1: at the end.
---@param dim integer
---@return perilune.Tensor
function Tensor:unsqueeze(dim) end

--- Dimensions of size 1 repeated without copying; -1 keeps a size. Writing to the view raises.
---@param ... integer
---@return perilune.Tensor
function Tensor:expand(...) end

--- With names, the same tensor with named dimensions; without, a list of the names.
---@param ... string
---@return perilune.Tensor|string[]
function Tensor:names(...) end

--- The size of a dimension, or all sizes: `local rows, columns = t:size()`.
---@param dim? integer|string
---@return integer ...
function Tensor:size(dim) end

--- How many elements there are.
---@return integer
function Tensor:count() end

--- A loop over the first dimension: index from 0, and row (a number where one dimension is left).
---@return fun(): integer?, perilune.Tensor|number|nil
function Tensor:each() end

--- The number of a tensor with one element.
---@return number
function Tensor:item() end

--- Nested tables, which count from 1.
---@return table|number
function Tensor:to_table() end

--- Writes NumPy's .npy.
---@param path string
---@return perilune.Tensor self
function Tensor:save(path) end

--- Lets its memory go now.
function Tensor:close() end

--- The product of two matrices.
---@param other perilune.Tensor
---@return perilune.Tensor
function Tensor:matmul(other) end

--- x such that self x = b.
---@param b perilune.Tensor
---@return perilune.Tensor
function Tensor:solve(b) end

--- x for which self x is nearest to b, by squares.
---@param b perilune.Tensor
---@return perilune.Tensor
function Tensor:lstsq(b) end

--- The inverse of a square matrix.
---@return perilune.Tensor
function Tensor:inv() end

--- The determinant.
---@return number|perilune.Tensor
function Tensor:det() end

--- The lower triangular L with L L^T = self, for a symmetric positive definite matrix.
---@return perilune.Tensor
function Tensor:cholesky() end

--- Q R = self, Q orthogonal and R upper triangular.
---@return perilune.Tensor q
---@return perilune.Tensor r
function Tensor:qr() end

--- U diag(s) V^T = self, s from the largest on.
---@return perilune.Tensor u
---@return perilune.Tensor s
---@return perilune.Tensor vt
function Tensor:svd() end

--- Eigenvalues and eigenvectors of a symmetric matrix.
---@return perilune.Tensor values
---@return perilune.Tensor vectors
function Tensor:eigh() end

--- Eigenvalues and eigenvectors, in columns, of any square matrix; the last dimension holds real and
--- imaginary part.
---@return perilune.Tensor values [n, 2]
---@return perilune.Tensor vectors [n, n, 2]
function Tensor:eig() end

--- Eigenvalues of any square matrix, which may be complex.
---@return perilune.Tensor
function Tensor:eigvals() end

--- -log softmax(self)[target] in nats, for logits [n, classes] or [classes].
---@param targets perilune.Tensor|integer
---@param opts? {reduction?: "mean"|"sum"|"none"} mean unless said otherwise
---@return number|perilune.Tensor
function Tensor:cross_entropy(targets, opts) end

--- Sum of p log(p / q) along the last dimension, in nats, self being p; both are probabilities.
---@param q perilune.Tensor
---@param opts? {reduction?: "mean"|"sum"|"none"} mean unless said otherwise
---@return number|perilune.Tensor
function Tensor:kl_div(q, opts) end

--- Cosine of the angle between two vectors, or row by row.
---@param other perilune.Tensor
---@return number|perilune.Tensor
function Tensor:cosine(other) end

--- Whether |self - other| <= atol + rtol |other| everywhere.
---@param other perilune.Tensor
---@param opts? {rtol?: number, atol?: number} 1e-5 and 1e-8
---@return boolean
function Tensor:allclose(other, opts) end

return pl
