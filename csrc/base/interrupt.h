// Ctrl-C during a native call. Python only notes the signal and runs its handler after the call, so
// long loops ask from time to time whether there was one, and end early.
#pragma once

namespace kpdeform {

// Throws if Ctrl-C was pressed. Python's main thread asks at most twenty times a second; everything
// else only costs a look at the clock.
void interruption_point();

}  // namespace kpdeform
