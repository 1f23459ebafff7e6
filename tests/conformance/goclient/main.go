// An ordinary Go program on client-go: typed and dynamic clients, an informer, server-side apply.
// It prints one line for each thing that worked and ends with 1 at the first that did not.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

func must(what string, err error) {
	if err != nil {
		fmt.Println("failed:", what, err)
		os.Exit(1)
	}
	fmt.Println(what)
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	must("kubeconfig", err)
	config.QPS, config.Burst = 1000, 1000
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	space := os.Args[2]

	// Bodies in protobuf, as Go programs send them.
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	typed := kubernetes.NewForConfigOrDie(config)
	maps := typed.CoreV1().ConfigMaps(space)

	factory := informers.NewSharedInformerFactoryWithOptions(typed, 0, informers.WithNamespace(space))
	informer := factory.Core().V1().ConfigMaps().Informer()
	added := make(chan string, 100)
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { added <- object.(*corev1.ConfigMap).Name },
	})
	must("informer made", err)
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		must("informer synced", fmt.Errorf("it never did"))
	}
	fmt.Println("informer synced")

	made, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "go-"},
		Data:       map[string]string{"a": "1"},
	}, metav1.CreateOptions{})
	must("create", err)
	for name := ""; name != made.Name; {
		select {
		case name = <-added:
		case <-ctx.Done():
			must("informer saw it", ctx.Err())
		}
	}
	fmt.Println("informer saw it")

	stale := made.DeepCopy()
	made.Data["b"] = "2"
	made, err = maps.Update(ctx, made, metav1.UpdateOptions{})
	must("update", err)
	if _, err = maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		must("conflict", fmt.Errorf("expected a conflict, got %v", err))
	}
	fmt.Println("conflict")
	patch, _ := json.Marshal(map[string]any{"data": map[string]any{"b": nil}})
	made, err = maps.Patch(ctx, made.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	must("strategic patch", err)
	_, err = maps.Apply(ctx, applycore.ConfigMap("go-applied", space).WithData(map[string]string{"x": "y"}),
		metav1.ApplyOptions{FieldManager: "go"})
	must("apply", err)
	list, err := maps.List(ctx, metav1.ListOptions{Limit: 1})
	must("list a page", err)
	if list.Continue == "" || len(list.Items) != 1 {
		must("list a page", fmt.Errorf("no continue"))
	}

	boats := dynamic.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{
		Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"}).Namespace(space)
	rule := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
		"metadata": map[string]any{"name": "go"}, "spec": map[string]any{"host": "a"},
	}}
	_, err = boats.Create(ctx, rule, metav1.CreateOptions{})
	must("dynamic create", err)
	found, err := boats.Get(ctx, "go", metav1.GetOptions{})
	must("dynamic get", err)
	must("dynamic delete", boats.Delete(ctx, found.GetName(), metav1.DeleteOptions{}))

	must("delete collection", maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	if _, err = maps.Get(ctx, made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		must("not found", fmt.Errorf("got %v", err))
	}
	fmt.Println("not found")
}
