#ifndef _MATH_H
#define _MATH_H

double exp(double x);

#endif
