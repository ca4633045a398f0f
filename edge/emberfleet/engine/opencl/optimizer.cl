// One update of every parameter: the gradient's partial sums are added up here, then the rule is applied.
//
//   RULE 0 sgd       g += L2;  b = m*b + g;  p -= rate * (nesterov ? g + m*b : b)
//   RULE 1 adam      a = b1*a + (1-b1)*g;  s = b2*s + (1-b2)*g*g;  p -= rate' * a / (sqrt(s)*c + eps)
//   RULE 2 adamw     p *= 1 - rate*decay first, then adam without L2
//   RULE 3 rmsprop   s = al*s + (1-al)*g*g;  u = g / (sqrt(s)+eps);  b = m*b + u;  p -= rate*b
//   RULE 4 adagrad   s += g*g;  p -= rate * g / (sqrt(s)+eps)
//   RULE 5 adadelta  s = rho*s + (1-rho)*g*g;  u = g*sqrt(a+eps)/sqrt(s+eps);
//                    a = rho*a + (1-rho)*u*u;  p -= rate*u
//
// PROXIMAL 1: g += mu * (p - anchor) comes first of all; 0: there is no anchor.
//
// Reference: engine/optimizers.py, whose slots these are. Slot 1 lies `slot` floats behind slot 0.
// Version (naive): group: one row of the job table, or its share of it, dealt out to the lanes.
// Tolerance: element by element; the sum, its parts.

static inline vec root(vec x)
{
    vec r;
    for (int lane = 0; lane < V; lane++) ((float *)&r)[lane] = SQRT(((const float *)&x)[lane]);
    return r;
}

// jobs[g]: offset of the parameters, how many (a multiple of V), offset of the first partial sum,
// how many parts, floats from part to part, whether decay applies, unused, unused.
// rates: rate (adam: rate / (1 - b1^t)), decay (adamw: rate * decay), adam: (1 - b2^t)^-0.5, mu.
// constants: first (momentum, b1, alpha, rho), second (b2, rmsprop's momentum), epsilon, nesterov.
KERNEL(update_f32)(GROUPS GLOBAL_OUT params, GLOBAL_IN gradients, GLOBAL_OUT slots, __global const int *restrict jobs,
                       const int slot, const float4 constants, const float4 rates
#if PROXIMAL
                       , GLOBAL_IN anchor
#endif
                       )
{
    __global const int *job = jobs + 8 * GROUP(0);
    const float decay = job[5] ? rates.y : 0.0f;
    for (int i = (CUT * LANES + LANE) * V; i < job[1]; i += CUTS * LANES * V) {
        const int at = job[0] + i;
        vec g = LOAD(gradients + job[2] + i);
        for (int part = 1; part < job[3]; part++) g += LOAD(gradients + job[2] + part * job[4] + i);
        vec p = LOAD(params + at);
#if PROXIMAL
        g += rates.w * (p - LOAD(anchor + at));
#endif
#if RULE != 2
        g += decay * p;
#else
        p *= 1.0f - decay;
#endif
#if RULE == 0
        if (constants.x != 0.0f) {
            const vec b = LOAD(slots + at) * constants.x + g;
            STORE(slots + at) = b;
            g = constants.w != 0.0f ? g + constants.x * b : b;
        }
        STORE(params + at) = p - rates.x * g;
#elif RULE == 1 || RULE == 2
        const vec a = LOAD(slots + at) * constants.x + g * (1.0f - constants.x);
        const vec s = LOAD(slots + slot + at) * constants.y + g * g * (1.0f - constants.y);
        STORE(slots + at) = a;
        STORE(slots + slot + at) = s;
        STORE(params + at) = p - rates.x * (a / (root(s) * rates.z + constants.z));
#elif RULE == 3
        const vec s = LOAD(slots + at) * constants.x + g * g * (1.0f - constants.x);
        STORE(slots + at) = s;
        vec u = g / (root(s) + constants.z);
        if (constants.y != 0.0f) {
            u += LOAD(slots + slot + at) * constants.y;
            STORE(slots + slot + at) = u;
        }
        STORE(params + at) = p - rates.x * u;
#elif RULE == 4
        const vec s = LOAD(slots + at) + g * g;
        STORE(slots + at) = s;
        STORE(params + at) = p - rates.x * (g / (root(s) + constants.z));
#elif RULE == 5
        const vec s = LOAD(slots + at) * constants.x + g * g * (1.0f - constants.x);
        const vec before = LOAD(slots + slot + at);
        const vec u = g * (root(before + constants.z) / root(s + constants.z));
        STORE(slots + at) = s;
        STORE(slots + slot + at) = before * constants.x + u * u * (1.0f - constants.x);
        STORE(params + at) = p - rates.x * u;
#endif
    }
}
