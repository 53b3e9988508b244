#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_HANDLE_H_

// Sketch: move-only RAII reference to one loaded adapter; name(), sha256(),
// prepared() (PreparedAdapterPtr). The last one released lets a waiting unload
// go on.

#endif
