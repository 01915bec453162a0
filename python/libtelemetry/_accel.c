/*
 * The accelerator: `Client.enqueue` in C, for CPython's stable ABI of 3.9 and later. Optional: without it the package
 * does the same through ctypes.
 *
 * It is a base class of `Client` with one method. A dict, and an event that is exactly a bytes, str, bytearray or
 * memoryview, goes to the queue in this one call. Whatever else there is (subclasses, wrong types, wrong arguments, a
 * client that was never opened) is passed on to the method written in Python, unchanged: that one defines what
 * happens, and this file is a shorter way through it.
 *
 * Invariants:
 * - It links neither libpython nor libtelemetry; `_attach` says where `telemetry_enqueue` and the handle are.
 * - No state outside the objects: each interpreter that imports it has a type of its own.
 * - The handle is read at each call from the ctypes object that `Client` holds as `_handle`, which becomes NULL
 *   when the client is freed; the library refuses NULL.
 * - The GIL is kept (the library does not wait), except for `on_full="block"`. It is what keeps other threads from
 *   `_attach`, so free-threaded builds do not use this file.
 * - No error is set when a call returns an object, and none that is not an Exception is ever cleared.
 */
#define Py_LIMITED_API 0x03090000
#include <Python.h>
#include <stdint.h>

/* The headers of 3.9 keep this one back; its convention is the same there, and 3.9 changes no more. */
#ifndef METH_FASTCALL
#define METH_FASTCALL 0x0080
#endif

/* Grows with what `_attach` takes: the package ignores a file that was left by another version of it. */
#define INTERFACE 1

typedef int32_t (*enqueue_fn)(void *handle, const void *event, size_t len);

typedef struct {
    PyObject_HEAD
    enqueue_fn put; /* NULL until `_attach` */
    void *const *handle; /* inside `owner` */
    int may_wait;
    PyObject *owner; /* ctypes.c_void_p */
    PyObject *dumps; /* orjson.dumps, or NULL */
    PyObject *stand_in; /* its second argument */
    PyObject *encode; /* dict -> bytes, whatever the dict holds */
} Queue;

static PyObject *put(const Queue *self, PyObject *data)
{
    char *text;
    Py_ssize_t len;
    if (PyBytes_AsStringAndSize(data, &text, &len) < 0)
        return NULL;
    int32_t status;
    if (self->may_wait) {
        /* Other threads run meanwhile. The caller holds the client, and so its handle; `data` is held here. */
        enqueue_fn call = self->put;
        void *handle = *self->handle;
        Py_INCREF(data);
        PyThreadState *thread = PyEval_SaveThread();
        status = call(handle, text, (size_t)len);
        PyEval_RestoreThread(thread);
        Py_DECREF(data);
    } else {
        status = self->put(*self->handle, text, (size_t)len);
    }
    PyObject *taken = status == 0 ? Py_True : Py_False;
    Py_INCREF(taken);
    return taken;
}

/* A new bytes object, or NULL with an error set. */
static PyObject *from_dict(const Queue *self, PyObject *event)
{
    if (self->dumps) {
        PyObject *data = PyObject_CallFunctionObjArgs(self->dumps, event, self->stand_in, NULL);
        /* Its limits: 64-bit integers, string keys, depth. KeyboardInterrupt and the like go on. */
        if (data || !PyErr_ExceptionMatches(PyExc_Exception))
            return data;
        PyErr_Clear();
    }
    return PyObject_CallFunctionObjArgs(self->encode, event, NULL);
}

static PyObject *from_str(PyObject *event)
{
    PyObject *data = PyUnicode_AsUTF8String(event);
    if (data || !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
        return data;
    /* A lone surrogate has no UTF-8 form; the event matters more than that character. */
    PyErr_Clear();
    return PyUnicode_AsEncodedString(event, "utf-8", "replace");
}

/* The method in Python, `Client._enqueue`, with the arguments as they came. */
static PyObject *in_python(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *named = NULL, *answer = NULL;
    PyObject *method = PyObject_GetAttrString(self, "_enqueue");
    PyObject *positional = PyTuple_New(count);
    if (!method || !positional)
        goto out;
    for (Py_ssize_t n = 0; n < count; n++) {
        Py_INCREF(args[n]);
        PyTuple_SetItem(positional, n, args[n]); /* takes the reference; cannot fail in a new tuple */
    }
    if (names) {
        named = PyDict_New();
        if (!named)
            goto out;
        for (Py_ssize_t n = 0; n < PyTuple_Size(names); n++)
            if (PyDict_SetItem(named, PyTuple_GetItem(names, n), args[count + n]) < 0)
                goto out;
    }
    answer = PyObject_Call(method, positional, named);
out:
    Py_XDECREF(method);
    Py_XDECREF(positional);
    Py_XDECREF(named);
    return answer;
}

static PyObject *enqueue(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Queue *self = (Queue *)object;
    if (count != 1 || names || !self->put)
        return in_python(object, args, count, names);
    PyObject *event = args[0], *data;
    if (PyBytes_CheckExact(event))
        return put(self, event);
    if (PyDict_CheckExact(event))
        data = from_dict(self, event);
    else if (PyUnicode_CheckExact(event))
        data = from_str(event);
    else if (PyByteArray_CheckExact(event) || Py_TYPE(event) == &PyMemoryView_Type)
        data = PyBytes_FromObject(event); /* a copy that nobody else can resize */
    else if (PyDict_Check(event))
        data = from_dict(self, event);
    else
        return in_python(object, args, count, names);
    if (!data)
        return NULL;
    PyObject *taken = put(self, data);
    Py_DECREF(data);
    return taken;
}

static int set_pointer(PyObject *number, void **out)
{
    *out = PyLong_AsVoidPtr(number);
    if (!*out && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "an address is not 0");
    return *out ? 0 : -1;
}

static void hold(PyObject **where, PyObject *object)
{
    PyObject *old = *where;
    Py_INCREF(object);
    *where = object;
    Py_XDECREF(old);
}

/* _attach(owner, address of its value, address of telemetry_enqueue, may_wait, dumps or None, stand_in, encode) */
static PyObject *attach(PyObject *object, PyObject *args)
{
    Queue *self = (Queue *)object;
    PyObject *owner, *slot, *function, *dumps, *stand_in, *encode;
    int may_wait;
    void *handle;
    union {
        void *address;
        enqueue_fn call;
    } put;
    if (!PyArg_ParseTuple(args, "OOOpOOO:_attach", &owner, &slot, &function, &may_wait, &dumps, &stand_in, &encode))
        return NULL;
    if (set_pointer(slot, &handle) < 0 || set_pointer(function, &put.address) < 0)
        return NULL;
    /* Of a client that is opened again the encoder may be at work: that one stays. */
    if (!self->encode) {
        hold(&self->stand_in, stand_in);
        hold(&self->encode, encode);
        if (dumps != Py_None)
            hold(&self->dumps, dumps);
    }
    self->put = put.call;
    self->handle = handle;
    self->may_wait = may_wait;
    hold(&self->owner, owner);
    Py_INCREF(Py_None);
    return Py_None;
}

static int traverse(PyObject *object, visitproc visit, void *arg)
{
    Queue *self = (Queue *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->owner);
    Py_VISIT(self->dumps);
    Py_VISIT(self->stand_in);
    Py_VISIT(self->encode);
    return 0;
}

static int clear(PyObject *object)
{
    Queue *self = (Queue *)object;
    self->put = NULL; /* from here on it is a client that was never opened */
    self->handle = NULL;
    Py_CLEAR(self->owner);
    Py_CLEAR(self->dumps);
    Py_CLEAR(self->stand_in);
    Py_CLEAR(self->encode);
    return 0;
}

/* The stable ABI hands functions over as void *, like dlsym. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"

static void dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    clear(object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"enqueue", (PyCFunction)(void (*)(void))enqueue, METH_FASTCALL | METH_KEYWORDS,
     "enqueue($self, event)\n--\n\n"
     "Give one event to the queue; True if it was taken.\n\n"
     "`event` is one JSON object: a dict, or its text. In a dict, what JSON does not know becomes\n"
     "text (``datetime`` as ISO 8601, an Enum by its value, sets as lists, everything else by\n"
     "``str``). Never blocks (``on_full=\"block\"`` for at most ``block_timeout_ms``) and never\n"
     "raises for delivery trouble: False means that the queue is full, that the event is too large\n"
     "or that the client is shut down, each counted in `stats`. Text that is not JSON is found and\n"
     "counted later, as `Stats.invalid`.\n\n"
     "Raises TypeError if `event` is none of these types."},
    {"_attach", attach, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_doc, "The part of Client that is written in C."},
    {Py_tp_methods, methods},
    {Py_tp_traverse, traverse},
    {Py_tp_clear, clear},
    {Py_tp_dealloc, dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "libtelemetry._accel.Queue",
    .basicsize = sizeof(Queue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

static int fill(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&spec);
    if (!type)
        return -1;
    if (PyModule_AddObject(module, "Queue", type) < 0) {
        Py_DECREF(type);
        return -1;
    }
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

/* Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED: from 3.12 on, and an error before. */
static PyModuleDef_Slot with_own_gil[] = {{Py_mod_exec, fill}, {3, (void *)2}, {0, NULL}};
static PyModuleDef_Slot without[] = {{Py_mod_exec, fill}, {0, NULL}};

#pragma GCC diagnostic pop

#define DEFINE(slots) \
    {.m_base = PyModuleDef_HEAD_INIT, .m_name = "libtelemetry._accel", .m_doc = "Client.enqueue in C.", .m_slots = slots}

static PyModuleDef module_from_3_12 = DEFINE(with_own_gil);
static PyModuleDef module_before = DEFINE(without);

PyMODINIT_FUNC PyInit__accel(void)
{
    PyObject *version = PySys_GetObject("hexversion"); /* borrowed */
    long number = version ? PyLong_AsLong(version) : 0;
    if (number == -1 && PyErr_Occurred())
        return NULL;
    return PyModuleDef_Init(number >= 0x030c0000 ? &module_from_3_12 : &module_before);
}
