"""How HSVLC spends bits by M: the growth of lambda(M), and the gates. No import here, so that all may read it."""

LAMBDA_GROWTH = 6  # of lambda(M) = c exp(6 M)
GATES = (0.0, 0.0, 0.125, 0.25)  # f_i is coded where M >= GATES[i]
